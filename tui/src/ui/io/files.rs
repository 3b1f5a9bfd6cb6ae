//! Files that the user asks for, and the list of recent launches.

use mirrord_protocol::session::v1::{Event, event::Detail};
use mirrord_session::jsonl;

use crate::ui::{
    config,
    export::{self, curl},
    model::{form::LaunchRequest, overlay::ExportForm},
};

/// Writes a file that only its owner may read; one that exists is not touched.
pub(super) fn write_new(path: &str, data: &[u8]) -> Result<(), String> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(data)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => format!("{path} exists already; give another name"),
        _ => format!("cannot write {path}: {error}"),
    })
}

pub(super) fn export_to(form: ExportForm, events: &[Event], path: &str) -> Result<Option<String>, String> {
    let text = match form {
        ExportForm::Har => {
            serde_json::to_string_pretty(&export::har::archive(events)).map_err(|error| error.to_string())?
        }
        ExportForm::Jsonl => {
            let header = jsonl::Header {
                recording: jsonl::VERSION,
                program: env!("CARGO_PKG_VERSION").to_owned(),
                ..jsonl::Header::default()
            };
            let lines =
                std::iter::once(jsonl::encode_header(&header)).chain(events.iter().map(jsonl::encode));
            lines.map(|line| line + "\n").collect()
        }
        ExportForm::Curl => {
            let commands = events.iter().filter_map(|event| match &event.detail {
                Some(Detail::Request(request)) => Some(curl::command(request)),
                _ => None,
            });
            commands.fold("#!/bin/sh\n".to_owned(), |text, line| text + &line + "\n")
        }
    };
    write_new(path, text.as_bytes())?;
    Ok(Some(format!("wrote {} rows to {path}", events.len())))
}

fn recent_path() -> Option<std::path::PathBuf> {
    config::state_dir().map(|dir| dir.join("launches.json"))
}

/// Launches of earlier runs; a file that cannot be read is as good as none.
pub(super) fn load_recent() -> Vec<LaunchRequest> {
    let text = recent_path().and_then(|path| std::fs::read(path).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

pub(super) fn save_recent(recent: &[LaunchRequest]) -> Result<(), String> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let Some(path) = recent_path() else { return Ok(()) };
    let failed =
        |error: std::io::Error| format!("recent launches cannot be kept in {}: {error}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    let text = serde_json::to_vec_pretty(recent).map_err(|error| error.to_string())?;
    // Variables may hold secrets: nobody else reads it, and a crash leaves the old list.
    let new = path.with_extension("new");
    std::fs::write(&new, text).map_err(failed)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&new, &path).map_err(failed)
}
