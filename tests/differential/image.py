"""Reads the archives that `docker save` and `mica save` write, and tells in what two images differ."""

import hashlib
import io
import json
import os
import tarfile
import time
from dataclasses import dataclass, field

# A time later than this is that of the run, and is not the same in two builds.
RECENT = time.time() - 86400

KINDS = {
    tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "symlink",
    tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char device", tarfile.BLKTYPE: "block device",
}
CONFIG = ("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "Labels", "StopSignal", "Healthcheck", "Shell", "OnBuild",
          "ArgsEscaped", "ExposedPorts", "Volumes")


@dataclass(eq=False)
class Node:
    """A file of an image. Hard links of one another are one node."""

    kind: str = "directory"
    mode: int = 0o755
    owner: tuple = (0, 0)
    content: str = ""
    xattrs: tuple = ()
    mtime: int = 0

    def facts(self):
        """All that two builds have in common, but for the time."""
        return {"kind": self.kind, "mode": f"{self.mode:04o}", "owner": self.owner, "content": self.content,
                "xattrs": self.xattrs}


@dataclass
class Image:
    """What a build made: the config, the changes that each layer makes, and the files of all of them."""

    config: dict
    history: list
    layers: list = field(default_factory=list)
    files: dict = field(default_factory=dict)

    @classmethod
    def read(cls, path):
        """Reads the one image of an archive."""
        with tarfile.open(path) as archive:
            manifest = json.load(archive.extractfile("manifest.json"))[0]
            document = json.load(archive.extractfile(manifest["Config"]))
            image = cls(config(document), history(document))
            for name in manifest["Layers"]:
                image.apply(archive.extractfile(name).read())
        return image

    def apply(self, layer):
        """Puts a layer on top, and notes what it changes."""
        before = dict(self.files)
        own = set()
        with tarfile.open(fileobj=io.BytesIO(layer), encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                self.member(archive, member, own)
        changes = {f"- {path}" for path in before
                   if path not in self.files and os.path.dirname(path) in self.files.keys() | {"/"}}
        leads = {os.path.dirname(path) for path in own}
        for path in own & self.files.keys():
            node, old = self.files[path], before.get(path)
            same = old is not None and node.facts() == old.facts()
            # A folder that only leads to something, or is there just as it was, is no change.
            if node.kind != "directory" or not (same or path in leads):
                changes.add(f"+ {path}")
        self.layers.append(sorted(changes))

    def member(self, archive, member, own):
        path = "/" + os.path.normpath("/" + member.name).lstrip("/")
        folder, name = os.path.split(path)
        if path == "/" or name.startswith(".wh..wh.") and name != ".wh..wh..opq":
            return
        if name == ".wh..wh..opq":
            self.drop(folder, own | {folder})
        elif name.startswith(".wh."):
            self.drop(os.path.join(folder, name[4:]), own)
        elif member.islnk():
            target = self.files["/" + os.path.normpath("/" + member.linkname).lstrip("/")]
            self.drop(path, set())
            self.files[path] = target
            own.add(path)
        else:
            node = read_node(archive, member)
            if node.kind != "directory" or path in self.files and self.files[path].kind != "directory":
                self.drop(path, set())
            self.files[path] = node
            own.add(path)

    def drop(self, path, keep):
        below = path.rstrip("/") + "/"
        for other in [other for other in self.files if other == path or other.startswith(below)]:
            if other not in keep:
                del self.files[other]


def read_node(archive, member):
    prefix = "SCHILY.xattr."
    xattrs = {name[len(prefix):]: value for name, value in member.pax_headers.items() if name.startswith(prefix)}
    node = Node(KINDS[member.type], member.mode & 0o7777, (member.uid, member.gid), "", tuple(sorted(xattrs.items())),
                int(member.mtime))
    if node.kind == "file":
        data = archive.extractfile(member).read()
        shown = repr(data[:40]) if len(data) < 200 else hashlib.sha256(data).hexdigest()[:16]
        node.content = f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()[:8]} {shown}"
    elif node.kind == "symlink":
        node.content, node.mode = member.linkname, 0o777
    elif "device" in node.kind:
        node.content = f"{member.devmajor}:{member.devminor}"
    return node


def config(document):
    """What a build decides of a config; what is empty is the same as what is not there."""
    inner = document.get("config") or {}
    out = {key: document[key] for key in ("architecture", "os", "author") if document.get(key)}
    for key in CONFIG:
        if value := inner.get(key):
            out[key] = {k: v for k, v in value.items() if v} if key == "Healthcheck" else value
    return out


def history(document):
    keys = ("created_by", "comment", "empty_layer")
    return [{key: entry[key] for key in keys if entry.get(key)} for entry in document.get("history") or []]


def differences(docker, mica):
    """In what two images differ, a line each."""
    yield from differing("config", docker.config, mica.config)
    yield from differing("history", dict(enumerate(docker.history)), dict(enumerate(mica.history)))
    yield from differing("layer", dict(enumerate(docker.layers)), dict(enumerate(mica.layers)))
    for path in sorted(docker.files.keys() | mica.files.keys()):
        theirs, ours = docker.files.get(path), mica.files.get(path)
        if theirs is None or ours is None:
            yield f"{path}: only in {'mica' if theirs is None else 'docker'}"
            continue
        yield from differing(path, theirs.facts(), ours.facts())
        # The time of a folder is that of the last change in it, unless it was copied as a whole.
        if theirs.kind != "directory" and time_of(theirs) != time_of(ours):
            yield f"{path} mtime: docker {time_of(theirs)}, mica {time_of(ours)}"
    yield from differing("hard links", hard_links(docker), hard_links(mica))


def differing(what, theirs, ours):
    for key in list(theirs) + [key for key in ours if key not in theirs]:
        if theirs.get(key) != ours.get(key):
            yield f"{what} {key}: docker {theirs.get(key)!r}, mica {ours.get(key)!r}"


def time_of(node):
    return "now" if node.mtime > RECENT else node.mtime


def hard_links(image):
    names = {}
    for path, node in sorted(image.files.items()):
        names.setdefault(id(node), []).append(path)
    return {paths[0]: paths for paths in names.values() if len(paths) > 1}
