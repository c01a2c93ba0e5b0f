"""Builds the virtual machine: Debian's kernel with a GPIO chip and cameras, Debian 13 with picamera2, and its disk."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system import wheels
from tests.system.cache import cached

HERE = Path(__file__).parent / "image"
PYTHON = "3.13"
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "gcc": "gcc",
    "make": "make",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "unshare": "util-linux",
}
PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "kmod", "passwd", "procps"),
    *("python3", "python3-venv", "python3-numpy", "python3-pil", "python3-libgpiod"),
    # What picamera2 needs of the system's; itself it is not in Debian.
    *(
        "python3-libcamera",
        "libcamera-ipa",
        "libcamera-tools",
        "python3-prctl",
        "python3-jsonschema",
        "python3-tqdm",
    ),
)
# Pure Python, as on a Raspberry Pi, and what of its needs Debian has not.
PICAMERA2 = (
    "picamera2==0.3.38",
    "simplejpeg==1.9.0",
    "piexif==1.1.3",
    "videodev2==0.0.4",
    "libarchive-c==5.3",
)
# Of the device's lock: Debian's would bring all of ffmpeg. The rest the product brings itself, or Debian.
LOCKED = ("av==",)
# picamera2 imports both and uses neither here: a screen's mode setting, and raw pictures.
STUBS = {
    "pykms.py": "class _Anything:\n    def __getattr__(self, name):\n        return name\n\n\nPixelFormat = _Anything()\n",
    "pidng/__init__.py": "",
    "pidng/camdefs.py": "class Picamera2Camera:\n    pass\n",
    "pidng/core.py": "class PICAM2DNG:\n    pass\n",
}
# Units that take seconds of an emulated processor, and that no test needs.
NOT_STARTED = (
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
    ),
    *("e2scrub_reap.service", "systemd-timesyncd.service", "ldconfig.service", "systemd-binfmt.service"),
    *("proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount", "getty.target"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-fs-fuse-connections.mount", "kmod-static-nodes.service"),
    *("systemd-udev-trigger.service", "systemd-udev-settle.service", "systemd-udev-load-credentials.service"),
    *("systemd-random-seed.service", "systemd-pcrmachine.service", "systemd-hwdb-update.service"),
    *("systemd-journal-catalog-update.service", "systemd-update-done.service", "systemd-tpm2-setup.service"),
    *("systemd-tpm2-setup-early.service", "systemd-modules-load.service", "systemd-firstboot.service"),
    *("systemd-logind.service", "systemd-user-sessions.service", "systemd-update-utmp.service"),
    *("systemd-journal-flush.service", "systemd-sysusers.service", "systemd-machine-id-commit.service"),
    *("systemd-hibernate-clear.service", "systemd-battery-check.service", "systemd-pstore.service"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path", "systemd-creds.socket"),
)
NOT_LOADED = ("configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop")
GENERATORS = (
    *(
        "cryptsetup",
        "gpt-auto",
        "hibernate-resume",
        "integritysetup",
        "rc-local",
        "run",
        "ssh",
        "system-update",
    ),
    *("sysv", "tpm2", "veritysetup", "bless-boot", "import", "factory-reset", "getty"),
)
MACHINE_ID = "e0d9e51a3e5e4c7d9a2b6f0c1d2e3f40"
DISK_MEGABYTES = 1400


@dataclass(frozen=True)
class Image:
    """What boots, without a product in it."""

    kernel: Path
    """A directory: vmlinux, initrd, modules."""
    tree: Path
    """The root of Debian 13; not to be changed."""


def missing() -> str:
    """Why a machine cannot be built and run here; empty if it can."""
    if platform.machine() != "x86_64":
        return f"the machine's kernel is x86-64's, and this is {platform.machine()}"
    if needed := sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=_PATH)}):
        return f"needs Debian's packages {', '.join(needed)} (apt install them)"
    release = Path("/etc/os-release")
    if not release.exists() or "VERSION_CODENAME=bookworm" not in release.read_text(encoding="utf-8"):
        return "the kernel's modules are built with Debian 12's compiler and packages, and this is another system"
    return ""


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def image(cache: Path) -> Image:
    """Kernel and tree, built on first use, which takes the network and two minutes."""

    def kernel(place: Path) -> None:
        _run(["bash", str(HERE / "kernel.sh"), str(place)])

    def tree(place: Path) -> None:
        _debian(place / "tree")

    scripts = "\n".join(path.read_text(encoding="utf-8") for path in sorted(HERE.iterdir()) if path.is_file())
    contents = repr((PACKAGES, STUBS, _foreign()))
    contents += Path(wheels.__file__).read_text(encoding="utf-8")
    with ThreadPoolExecutor(2) as pool:
        kernel_built = pool.submit(cached, cache, "machine-kernel", scripts, kernel)
        tree_built = pool.submit(cached, cache, "machine-tree", contents, tree)
        return Image(kernel_built.result(), tree_built.result() / "tree")


def _foreign() -> tuple[str, ...]:
    return (*PICAMERA2, *(line for line in wheels.locked(PYTHON) if line.startswith(LOCKED)))


def _run(command: list[str], **options: str) -> None:
    """Run a builder; what it said is in the error if it fails."""
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ran.returncode == 0, f"{' '.join(command[:3])} …: {ran.stdout[-3000:]}"


def _debian(tree: Path) -> None:
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    options += ["--dpkgopt=force-unsafe-io", f"--include={','.join(PACKAGES)}"]
    _run(["mmdebstrap", "--quiet", "--variant=essential", *options, "trixie", str(tree)])
    wheels.install(_foreign(), PYTHON, "x86_64", tree)
    packages = tree / "usr" / "local" / "lib" / f"python{PYTHON}" / "dist-packages"
    for name, text in STUBS.items():
        (packages / name).parent.mkdir(exist_ok=True)
        (packages / name).write_text(text)
    # An emulated processor would take minutes for what this one does in seconds.
    _run(
        ["chroot", str(tree), "python3", "-m", "compileall", "-q", "-j", "2", str(packages.relative_to(tree))]
    )
    shutil.rmtree(tree / "var" / "cache" / "apt", ignore_errors=True)
    shutil.rmtree(tree / "var" / "lib" / "apt" / "lists", ignore_errors=True)


@contextmanager
def changed(image: Image, work: Path) -> Iterator[Path]:
    """The tree to be changed, while the cached one stays as it is: an overlay of it."""
    root, upper, scratch = work / "root", work / "upper", work / "scratch"
    for directory in (root, upper, scratch):
        directory.mkdir(parents=True)
    _run(
        [
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            f"lowerdir={image.tree},upperdir={upper},workdir={scratch}",
            str(root),
        ]
    )
    try:
        yield root
    finally:
        _run(["umount", str(root)])
        for directory in (upper, scratch):
            shutil.rmtree(directory)


def install(root: Path, package: Path, bundle: Path) -> None:
    """What a user does with a new device: the package, which brings the service, and a model.

    Args:
        root: a changed tree.
        package: the Debian package.
        bundle: the directory of a bundle.
    """
    shutil.copy2(package, root / "tmp" / package.name)
    shutil.copytree(bundle, root / "tmp" / "bundle")
    script = f"""
mount --bind /dev {shlex.quote(str(root))}/dev
mount -t proc proc {shlex.quote(str(root))}/proc
exec chroot {shlex.quote(str(root))} sh -ec '
dpkg --force-unsafe-io --install /tmp/{package.name}
edge-siamese model install /tmp/bundle'
"""
    clean = ["env", "-i", f"PATH={_PATH}", "LC_ALL=C.UTF-8", "HOME=/root"]
    _run(["unshare", "--mount", "--propagation", "private", *clean, "sh", "-ec", script])
    (root / "tmp" / package.name).unlink()
    shutil.rmtree(root / "tmp" / "bundle")


def write_disk(image: Image, root: Path, disk: Path, files: Mapping[str, str]) -> None:
    """Make an ext4 disk of a changed tree, which boots fast, with the kernel's modules and some files in it.

    Args:
        image: whose kernel.
        root: the changed tree.
        disk: is written.
        files: texts by their place; owned by root, 0644.
    """
    units = root / "etc" / "systemd" / "system"
    generators = root / "etc" / "systemd" / "system-generators"
    generators.mkdir(parents=True)
    masked = [units / name for name in NOT_STARTED]
    masked += [units / f"modprobe@{name}.service" for name in NOT_LOADED]
    masked += [generators / f"systemd-{name}-generator" for name in GENERATORS]
    for path in masked:
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
    defaults = {
        "/etc/machine-id": MACHINE_ID + "\n",
        "/etc/hostname": "machine\n",
        "/etc/fstab": "",
        "/etc/systemd/journald.conf.d/volatile.conf": "[Journal]\nStorage=volatile\n",
    }
    for place, text in {**defaults, **files}.items():
        path = root / place.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    modules = image.kernel / "modules" / "lib" / "modules"
    shutil.copytree(modules, root / "usr" / "lib" / "modules")
    (version,) = [path.name for path in modules.iterdir()]
    _run(["chroot", str(root), "depmod", version])
    disk.unlink(missing_ok=True)
    _run(["truncate", "-s", f"{DISK_MEGABYTES}M", str(disk)])
    _run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk)])
