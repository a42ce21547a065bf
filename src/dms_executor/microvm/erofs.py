"""`erofs.py TREE`: writes TREE, a folder or a file, as an EROFS image to descriptor 0, an empty file open for writing.

A program of its own, so that its end ends the work, and with nothing but the standard library, so that it starts soon.
TREE may be a stranger's who changes it meanwhile: each step goes from an opened folder to a name in it and never
through a symbolic link, nothing but regular files is opened for reading, three descriptors are enough at any depth.
The same tree gives the same bytes.

The format: https://docs.kernel.org/filesystems/erofs.html, fs/erofs/erofs_fs.h. Extended inodes; a file's data lies
behind its inode where it fits (FLAT_INLINE), else in whole blocks (FLAT_PLAIN). Inodes are told by their place in the
image, so that they and data take turns as they come. A hole is a hole of the image, too.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys

BLOCK = 4096
SLOT = 32  # an inode's place is a multiple of it: its nid
SEGMENT = 16 * BLOCK  # inodes between data
INLINE_MAX = BLOCK - SLOT

MAGIC = 0xE0F5E1E2
INODE_SIZE = 64
FLAT_PLAIN, FLAT_INLINE = 0, 2
KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFLNK)
TYPES = {kind: number for number, kind in enumerate(KINDS, 1)}
# By prefix: e_name_index. What has no index in the format (NFS's own) cannot be kept.
XATTRS = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)
# Whose files the kernel makes as they are read: a copy of them would mean nothing.
KERNELS = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs", "securityfs", "bpf"}

READ_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ONLY_FILE = b"file"  # the name of a TREE that is a file


class Made:
    """The status of a folder that is nowhere but in the image."""

    st_mode, st_uid, st_gid, st_dev, st_ino = 0o040755, 0, 0, -1, -1

    def __init__(self, mtime: int) -> None:
        self.st_mtime_ns = mtime


class Folder:
    """A folder that the walk is in: its inode is written when all in it is."""

    def __init__(self, status: os.stat_result | Made, xattrs: bytes, names: list[bytes]) -> None:
        self.status = status
        self.xattrs = xattrs
        self.names = names
        self.folders: list[bytes] = []
        self.entries: list[tuple[bytes, int, int]] = []  # name, nid, type
        size = sum(12 + len(name) for name in [b".", b"..", *names])
        # No more than it has now: what comes meanwhile is not looked at.
        self.is_inline = size <= INLINE_MAX
        self.room = size if self.is_inline else 0
        self.position = 0

    @property
    def identity(self) -> tuple[int, int]:
        return self.status.st_dev, self.status.st_ino


class Image:
    """Allocates and writes; positions in bytes."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.end = BLOCK  # of what is allocated
        self.slot = BLOCK
        self.slots_end = BLOCK
        self.inodes = 0
        self.links: dict[tuple[int, int], tuple[int, int]] = {}  # of what has several names: position, names so far

    def blocks(self, size: int) -> int:
        """The position of that many bytes, whole blocks."""
        position = self.end
        self.end += -(-size // BLOCK) * BLOCK
        if self.end // BLOCK >= 2**32:
            raise OSError(errno.EFBIG, "it is larger than 16 TiB")
        return position

    def place(self, xattrs: int, inline: int) -> int:
        """The position of an inode with so many bytes behind it. What is inline crosses no block."""
        while True:
            position = self.slot
            begin = (position + INODE_SIZE + xattrs) % BLOCK
            if inline and begin + inline > BLOCK:
                position += -(-(BLOCK - begin) // SLOT) * SLOT
            end = position + INODE_SIZE + xattrs + inline
            if end <= self.slots_end:
                self.slot = -(-end // SLOT) * SLOT
                return position
            self.slot = self.blocks(SEGMENT + INODE_SIZE + xattrs)
            self.slots_end = self.end

    def inode(
        self, position: int, status: os.stat_result | Made, xattrs: bytes, size: int, where: int, inline: bytes
    ) -> None:
        """`where`: the first block, or the number of a device."""
        self.inodes += 1
        layout = FLAT_INLINE if inline else FLAT_PLAIN
        links = 2 if stat.S_ISDIR(status.st_mode) else 1
        count = (len(xattrs) - 12) // 4 + 1 if xattrs else 0
        seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        owner = (status.st_uid, status.st_gid)
        fields = (1 | layout << 1, count, status.st_mode, 0, size, where, self.inodes, *owner)
        packed = struct.pack("<HHHHQIIIIqII16x", *fields, seconds, nanoseconds, links)
        self.write(packed + xattrs + inline, position)

    def write(self, data: bytes, position: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self.fd, view, position)
            view, position = view[done:], position + done

    def finish(self, root: int) -> None:
        for position, count in self.links.values():
            self.write(struct.pack("<I", count), position + 44)  # i_nlink
        fields = (MAGIC, 0, 0, 12, 0, root // SLOT, self.inodes, 0, 0, self.end // BLOCK, 0, 0)
        self.write(struct.pack("<IIIBBHQQIIII", *fields), 1024)
        os.ftruncate(self.fd, self.end)


def write_tree(tree: str, out: int) -> None:
    """Raises OSError."""
    image = Image(out)
    top = os.open(tree, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(top)
        if stat.S_ISREG(status.st_mode):
            root = write_only_file(image, top, status)
        elif stat.S_ISDIR(status.st_mode):
            root = write_folders(image, os.open(f"/proc/self/fd/{top}", READ_FOLDER & ~os.O_NOFOLLOW))
        else:
            raise OSError(errno.EINVAL, "it is neither a folder nor a file")
    finally:
        os.close(top)
    image.finish(root)


def write_only_file(image: Image, top: int, status: os.stat_result) -> int:
    """In a folder of its own, which is root's and which everybody may read."""
    folder = Folder(Made(status.st_mtime_ns), b"", [ONLY_FILE])
    folder.position = image.place(0, folder.room)
    folder.entries.append((ONLY_FILE, write_opened(image, top, status) // SLOT, TYPES[stat.S_IFREG]))
    leave(image, folder, folder)
    return folder.position


def write_folders(image: Image, fd: int) -> int:
    """Down by name and up by `..`, so that one folder is open at a time. `fd` is closed."""
    try:
        foreign = kernels_devices()
        levels = [enter(image, fd, foreign)]
        root = levels[0].position
        while True:
            folder = levels[-1]
            if folder.folders:
                inner = opened_folder(fd, folder.folders[-1])
                name = folder.folders.pop()
                if inner is None:
                    continue
                os.dup2(inner, fd, inheritable=False)
                os.close(inner)
                levels.append(enter(image, fd, foreign))
                folder.entries.append((name, levels[-1].position // SLOT, TYPES[stat.S_IFDIR]))
                continue
            levels.pop()
            leave(image, folder, levels[-1] if levels else folder)
            if not levels:
                return root
            above = os.open("..", READ_FOLDER, dir_fd=fd)
            os.dup2(above, fd, inheritable=False)
            os.close(above)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != levels[-1].identity:
                raise OSError(errno.ESTALE, "a folder was moved meanwhile")
    finally:
        os.close(fd)


def opened_folder(fd: int, name: bytes) -> int | None:
    """None: it is gone, or none any more."""
    try:
        return os.open(name, READ_FOLDER, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def kernels_devices() -> set[int]:
    """st_dev of what the kernel makes. https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html"""
    found = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            words, _, rest = line.partition(" - ")
            if rest.split(" ", 1)[0] in KERNELS:
                major, minor = words.split(" ")[2].split(":")
                found.add(os.makedev(int(major), int(minor)))
    return found


def enter(image: Image, fd: int, foreign: set[int]) -> Folder:
    """Writes all in the opened folder but folders."""
    status = os.fstat(fd)
    names = [] if status.st_dev in foreign else sorted(os.fsencode(name) for name in os.listdir(fd))
    folder = Folder(status, packed_xattrs(fd), names)
    folder.position = image.place(len(folder.xattrs), folder.room)
    for name in names:
        try:
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except FileNotFoundError:
            continue  # it went meanwhile
        try:
            inner = os.fstat(opened)
            if stat.S_ISDIR(inner.st_mode):
                folder.folders.append(name)
                continue
            try:
                position = write_opened(image, opened, inner)
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.fsdecode(name)) from error
            folder.entries.append((name, position // SLOT, TYPES[stat.S_IFMT(inner.st_mode)]))
        finally:
            os.close(opened)
    return folder


def leave(image: Image, folder: Folder, above: Folder) -> None:
    """Writes the folder itself."""
    dots = [(b".", folder.position // SLOT, 2), (b"..", above.position // SLOT, 2)]
    data = packed_entries(sorted(dots + folder.entries))
    where, inline = 0, b""
    if folder.is_inline:
        inline = data
    else:
        position = image.blocks(len(data))
        image.write(data, position)
        where = position // BLOCK
    image.inode(folder.position, folder.status, folder.xattrs, len(data), where, inline)


def packed_entries(entries: list[tuple[bytes, int, int]]) -> bytes:
    """Each block: its entries, then their names."""
    blocks: list[list[tuple[bytes, int, int]]] = [[]]
    used = 0
    for entry in entries:
        size = 12 + len(entry[0])
        if used + size > BLOCK:
            blocks.append([])
            used = 0
        blocks[-1].append(entry)
        used += size
    packed = []
    for block in blocks:
        at, heads = 12 * len(block), b""
        for name, nid, kind in block:
            heads += struct.pack("<QHBx", nid, at, kind)
            at += len(name)
        packed.append(heads + b"".join(name for name, _, _ in block))
    return b"".join(block.ljust(BLOCK, b"\0") for block in packed[:-1]) + packed[-1]


def write_opened(image: Image, fd: int, status: os.stat_result) -> int:
    """What is no folder; `fd` only says which. Gives its position."""
    key = (status.st_dev, status.st_ino)
    known = image.links.get(key) if status.st_nlink > 1 else None
    if known is not None:
        image.links[key] = (known[0], known[1] + 1)
        return known[0]
    xattrs = packed_xattrs(fd)
    position = write_content(image, fd, status, xattrs)
    if status.st_nlink > 1:
        image.links[key] = (position, 1)
    return position


def write_content(image: Image, fd: int, status: os.stat_result, xattrs: bytes) -> int:
    if stat.S_ISREG(status.st_mode):
        # A regular file that was opened already: no device, no pipe and no symlink can be in its place.
        content = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return write_file(image, content, os.fstat(content), xattrs)
        finally:
            os.close(content)
    inline, where = b"", 0
    if stat.S_ISLNK(status.st_mode):
        inline = os.fsencode(os.readlink("", dir_fd=fd))
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        where = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12  # new_encode_dev, linux/kdev_t.h
    size = len(inline)
    if size > INLINE_MAX:
        where = image.blocks(size)
        image.write(inline, where)
        where, inline = where // BLOCK, b""
    position = image.place(len(xattrs), len(inline))
    image.inode(position, status, xattrs, size, where, inline)
    return position


def write_file(image: Image, fd: int, status: os.stat_result, xattrs: bytes) -> int:
    size, where, inline = status.st_size, 0, b""
    if size <= INLINE_MAX:
        # Shorter than it said a moment ago: the rest is zeros.
        inline = os.read(fd, size).ljust(size, b"\0") if size else b""
    else:
        begin = image.blocks(size)
        copy_data(fd, image.fd, size, begin)
        where = begin // BLOCK
    position = image.place(len(xattrs), len(inline))
    image.inode(position, status, xattrs, size, where, inline)
    return position


def copy_data(source: int, target: int, size: int, begin: int) -> None:
    """What is no hole. https://man7.org/linux/man-pages/man2/lseek.2.html"""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            end = min(os.lseek(source, at, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole follows
            raise
        while at < end:
            done = copy_part(source, target, at, begin + at, end - at)
            if done == 0:
                return  # it became shorter meanwhile
            at += done


def copy_part(source: int, target: int, at: int, to: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, at, to)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
            raise
    os.lseek(target, to, os.SEEK_SET)
    return os.sendfile(target, source, at, min(length, 1 << 30))


def packed_xattrs(fd: int) -> bytes:
    path = f"/proc/self/fd/{fd}"
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
            return b""
        raise
    packed = b""
    for name in sorted(os.fsencode(name) for name in names):
        found = next(((prefix, index) for prefix, index in XATTRS if name.startswith(prefix)), None)
        if found is None:
            continue
        try:
            value = os.getxattr(path, name)
        except OSError as error:
            if error.errno == errno.ENODATA:
                continue  # it went meanwhile
            raise
        rest = name[len(found[0]) :]
        entry = struct.pack("<BBH", len(rest), found[1], len(value)) + rest + value
        packed += entry + bytes(-len(entry) % 4)
    if not packed:
        return b""
    if len(packed) > 4 * 65534:
        raise OSError(errno.E2BIG, "its extended attributes are more than an image takes")
    return bytes(12) + packed


def main() -> int:
    try:
        write_tree(sys.argv[1], 0)
    except OSError as error:
        where = f"{error.filename!r}: " if isinstance(error.filename, str) else ""
        print(f"{where}{error.strerror}", file=sys.stderr)
        return 28 if error.errno == errno.ENOSPC else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
