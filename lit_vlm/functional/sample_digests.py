"""Fingerprints of samples, to find the same question in two places."""

import hashlib
from collections.abc import Iterator, Sequence

from lit_vlm.functional.media import resolve_media_path
from lit_vlm.interfaces.records import MediaRef, Sample, VideoRef

READ_AT_ONCE = 1 << 20  # bytes


def image_digests(sample: Sample) -> list[bytes]:
    """Hashes the contents of each image of a sample, in order; frames of videos do not count.

    Raises:
        UserError: A media file is missing or leaves its root.
    """
    return [media_digest(image) for image in sample.images]


def question_digest(sample: Sample, images: Sequence[bytes] | None = None) -> bytes:
    """Hashes what a sample asks: the turns before its completion, without the system's, and the contents of its media.

    Completion, id and origin do not count, nor does the name under which a medium lies.

    Args:
        sample: The sample.
        images: What ``image_digests`` gives for it, where that is known already.

    Raises:
        UserError: A media file is missing or leaves its root.
    """
    digest = hashlib.sha256()
    for message in sample.prompt:
        if message.role != "system":
            _add(digest, message.role.encode(), message.text.encode("utf-8", "surrogatepass"))
    for image in image_digests(sample) if images is None else images:
        _add(digest, b"image", image)
    for video in sample.videos:
        _add(digest, b"video", *_video_parts(video))
    return digest.digest()


def media_digest(reference: MediaRef) -> bytes:
    """Hashes the contents of one file or picture; a remote address is hashed itself.

    Raises:
        UserError: The file is missing or leaves its root.
    """
    digest = hashlib.sha256()
    if reference.pil is not None:
        _add(digest, reference.pil.mode.encode(), repr(reference.pil.size).encode(), reference.pil.tobytes())
    elif reference.bytes is not None:
        digest.update(reference.bytes)
    elif reference.url is not None:
        digest.update(reference.url.encode("utf-8", "surrogatepass"))
    else:
        with resolve_media_path(reference).open("rb") as file:
            while block := file.read(READ_AT_ONCE):
                digest.update(block)
    return digest.digest()


def _video_parts(video: VideoRef) -> Iterator[bytes]:
    yield repr((video.start, video.end)).encode()
    if video.file is not None:
        yield media_digest(video.file)
    for frame in video.frames:
        yield media_digest(frame)


def _add(digest: "hashlib._Hash", *parts: bytes) -> None:
    # Lengths keep the parts apart: "ab", "c" is another question than "a", "bc".
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
