#!/usr/bin/python3
"""images.py BIN_DIR OUT_DIR: writes the test images as docker archives, from files this machine has.
images.py --one NAME FILE OUT_DIR: writes registry.test/NAME:1 with nothing but one static program, /NAME.

  registry.test/pause:1     the sandbox image: one static binary
  registry.test/hello:1     distroless-like: one static HTTP server, no shell, not root
  registry.test/busybox:1   static busybox
  registry.test/python:1    Debian's python3 with its C libraries, and busybox as the shell

Equal inputs give equal bytes. Nothing is downloaded and nothing is installed.
"""
import hashlib, io, json, os, re, subprocess, sys, tarfile

USERS = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nnonroot:x:65532:65532:nonroot:/:/bin/false\n"
PATH = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Rootfs:
    """A file tree in memory: path -> bytes of a file, or (target,) of a symbolic link."""

    def __init__(self):
        self.entries = {"etc/passwd": USERS, "etc/group": b"root:x:0:\nnobody:x:65534:\n", "tmp/": None}

    def add(self, path, content):
        # The merged /usr of a modern distribution: /bin and /lib are links into it.
        path = re.sub(r"^/?(bin|sbin|lib|lib64)/", r"usr/\1/", path).lstrip("/")
        for top in ("bin", "sbin", "lib", "lib64"):
            if path.startswith(f"usr/{top}/"):
                self.entries[top] = (f"usr/{top}",)
        self.entries[path] = content

    def copy(self, path):
        if os.path.islink(path):
            self.add(path, (os.readlink(path),))
        elif os.path.isfile(path):
            with open(path, "rb") as f:
                self.add(path, f.read())

    def layer(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, content in sorted(self.entries.items()):
                info = tarfile.TarInfo(path.rstrip("/"))
                info.mode = 0o755
                if content is None:
                    info.type, info.mode = tarfile.DIRTYPE, 0o1777
                elif isinstance(content, tuple):
                    info.type, info.linkname = tarfile.SYMTYPE, content[0]
                else:
                    info.size = len(content)
                    if not content.startswith((b"\x7fELF", b"#!")):
                        info.mode = 0o644
                tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
        return out.getvalue()


def with_binary(path, name):
    rootfs = Rootfs()
    with open(path, "rb") as f:
        rootfs.add(name, f.read())
    return rootfs


def with_busybox(rootfs):
    rootfs.copy("/bin/busybox")
    for applet in run("busybox", "--list-full").split():
        link = "usr/" + re.sub(r"^usr/", "", applet)
        if link != "usr/bin/busybox" and link not in rootfs.entries:
            rootfs.add(link, ("/bin/busybox",))
    return rootfs


def with_python(rootfs):
    python = os.path.basename(os.path.realpath("/usr/bin/python3"))
    rootfs.add("/usr/bin/python3", (python,))
    packages = [f"lib{python}-minimal", f"{python}-minimal", f"lib{python}-stdlib"]
    files = [f for f in run("dpkg", "-L", *packages).split("\n") if f.startswith(("/usr/bin/", "/usr/lib/", "/etc/"))]
    for path in files:
        rootfs.copy(path)
    elf = [f for f in files if f.endswith(".so") or f == f"/usr/bin/{python}"]
    for library in set(re.findall(r"(/\S+) \(0x", run("ldd", *elf))):
        with open(library, "rb") as f:  # under its soname, whatever file the link leads to
            rootfs.add(library, f.read())
    rootfs.add("/etc/nsswitch.conf", b"hosts: files dns\n")
    return rootfs


def write_archive(out_dir, name, rootfs, **config):
    layer = rootfs.layer()
    diff_id = hashlib.sha256(layer).hexdigest()
    config = json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux",
        "config": {"Env": [PATH], "WorkingDir": "/", **config},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
    }, sort_keys=True).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [f"registry.test/{name}:1"], "Layers": [f"{diff_id}/layer.tar"]}]
    with tarfile.open(f"{out_dir}/{name}.tar", "w") as tar:
        for path, content in ((config_name, config), (f"{diff_id}/layer.tar", layer), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def main(bin_dir, out_dir):
    os.makedirs(out_dir, exist_ok=True)
    write_archive(out_dir, "pause", with_binary(f"{bin_dir}/pause", "pause"), Entrypoint=["/pause"])
    write_archive(out_dir, "hello", with_binary(f"{bin_dir}/hello", "hello"), Entrypoint=["/hello"], User="65532:65532")
    write_archive(out_dir, "busybox", with_busybox(Rootfs()), Cmd=["sh"])
    write_archive(out_dir, "python", with_busybox(with_python(Rootfs())), Cmd=["python3"])


if sys.argv[1] == "--one":
    _, _, name, program, out = sys.argv
    write_archive(out, name, with_binary(program, name), Entrypoint=[f"/{name}"])
else:
    main(*sys.argv[1:])
