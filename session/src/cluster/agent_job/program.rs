//! The agent as ConfigMaps bring it: the first stage, and the packed agent cut into what a ConfigMap may hold.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::ConfigMap};

/// The first stage: `stage DIR SHA256 ARGUMENTS...` (agent/stage).
const STAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mirrord-agent-stage"));
/// The agent, packed.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mirrord-agent.lzma"));
/// SHA-256 of the agent as it is when it is unpacked, in hexadecimal.
pub(super) const HASH: &str = include_str!(concat!(env!("OUT_DIR"), "/mirrord-agent.sha256"));

/// Bytes that the values of one ConfigMap may have together.
const ROOM: usize = 1 << 20;
/// Name of the first stage in the volume.
pub(super) const STAGE_NAME: &str = "stage";

/// How many ConfigMaps there are.
pub(super) fn count() -> usize {
    values().len()
}

/// The values of each ConfigMap: the first stage in the first one, the parts of the agent wherever there is room.
fn values() -> Vec<BTreeMap<String, ByteString>> {
    let (first, rest) = PACKED.split_at(PACKED.len().min(ROOM - STAGE.len()));
    let stage = (STAGE_NAME.to_owned(), ByteString(STAGE.to_vec()));
    let part = |index: usize, bytes: &[u8]| (format!("part{index:02}"), ByteString(bytes.to_vec()));
    let mut maps = vec![BTreeMap::from([stage, part(0, first)])];
    maps.extend(rest.chunks(ROOM).enumerate().map(|(index, bytes)| BTreeMap::from([part(index + 1, bytes)])));
    maps
}

/// Name of the ConfigMap `index` of a job.
pub(super) fn name(job: &str, index: usize) -> String {
    format!("{job}-{index}")
}

/// The ConfigMaps of a job, which owns them and takes them along.
pub(super) fn config_maps(
    job: &str,
    owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
    labels: &BTreeMap<String, String>,
) -> Vec<ConfigMap> {
    let map = |(index, values)| {
        let mut map = ConfigMap { binary_data: Some(values), immutable: Some(true), ..ConfigMap::default() };
        map.metadata.name = Some(name(job, index));
        map.metadata.owner_references = Some(vec![owner.clone()]);
        map.metadata.labels = Some(labels.clone());
        map
    };
    values().into_iter().enumerate().map(map).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_room_and_the_parts_make_the_whole() {
        let maps = values();
        let mut whole = Vec::new();
        for map in &maps {
            assert!(map.values().map(|value| value.0.len()).sum::<usize>() <= ROOM);
            for (name, value) in map.iter().filter(|(name, _)| name.starts_with("part")) {
                assert!(name.len() == 6);
                whole.extend_from_slice(&value.0);
            }
        }
        assert!(whole == PACKED);
        assert_eq!(HASH.len(), 64);
        // More would mean that the agent has grown beyond what is quick to send.
        assert!(maps.len() <= 3, "{} ConfigMaps", maps.len());
    }

    /// The first stage itself, with the real agent: it unpacks, checks and becomes it.
    #[test]
    fn the_first_stage_becomes_the_agent() {
        use std::{os::unix::fs::PermissionsExt, process::Command};
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in values().into_iter().flatten() {
            std::fs::write(folder.path().join(name), value.0).unwrap();
        }
        let stage = folder.path().join(STAGE_NAME);
        std::fs::set_permissions(&stage, std::fs::Permissions::from_mode(0o555)).unwrap();
        let run = |hash: &str| {
            let output =
                Command::new(&stage).arg(folder.path()).args([hash, "--help"]).env_clear().output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, said) = run(HASH);
        assert!(code == Some(1) && said.contains("usage: mirrord-agent"), "{code:?} {said}");
        let (code, said) = run(&"0".repeat(64));
        assert!(code == Some(111) && said.contains("its hash differs"), "{code:?} {said}");
        let last = folder.path().join(format!("part{:02}", count() - 1));
        let bytes = std::fs::read(&last).unwrap();
        std::fs::write(&last, &bytes[..bytes.len() / 2]).unwrap();
        let (code, said) = run(HASH);
        assert!(code == Some(111) && said.contains("do not make a whole"), "{code:?} {said}");
        std::fs::remove_file(folder.path().join("part00")).unwrap();
        let (code, said) = run(HASH);
        assert!(code == Some(111) && said.contains("part 0") && said.contains("errno 2"), "{code:?} {said}");
    }
}
