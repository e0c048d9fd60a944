"""An image is looked into until it is known to be whole, and how large `datasets` shows it."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from datasets import Image as ImageFeature
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, features

from pico_banana.fetching.inspect import FlawError, inspect
from pico_banana.missing import MissingReason
from tests.odd_exif import exif_with

SIZE = (90, 60)
MAX_PIXELS = 10_000
PICTURE = Image.fromarray(
    np.random.default_rng(7).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8), "RGB"
)
FORMATS = ("PNG", "JPEG", "WEBP")
# Those besides which Pillow may or may not have been built with.
ALL_FORMATS = (*FORMATS, "GIF", "BMP", "TIFF", "PPM", *["AVIF"] * features.check("avif"))


def encoded(kind, picture=PICTURE, **options):
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture.save(data, kind, **options)
    return data.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def look(data, *, decode=False, max_pixels=MAX_PIXELS, is_whole=True):
    return inspect(data, decode=decode, max_pixels=max_pixels, is_whole=is_whole)


def flaw(data, **options):
    with pytest.raises(FlawError) as caught:
        look(data, **options)
    assert caught.value.detail
    return caught.value.reason


def size_in_datasets(data):
    return ImageFeature().decode_example({"bytes": data, "path": None}).size


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("kind", ALL_FORMATS)
def test_whole_images(kind, decode):
    data = encoded(kind)
    facts = look(data, decode=decode)
    assert (facts.format, facts.mark) == (kind, None)
    assert (facts.width, facts.height) == SIZE == size_in_datasets(data)


@pytest.mark.parametrize("options", [{"progressive": True}, {"icc_profile": bytes(70_000)}])
def test_other_jpegs(options):
    assert look(encoded("JPEG", **options), decode=True).mark is None


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "I;16", "RGBA", "CMYK"])
def test_other_modes(mode):
    data = encoded("JPEG" if mode == "CMYK" else "PNG", PICTURE.convert("L").convert(mode))
    assert (look(data).width, look(data, decode=True).height) == SIZE


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [*FORMATS, "TIFF"])
def test_sizes_are_those_after_orientation(kind, orientation):
    data = encoded(kind, exif=turned(orientation))
    upright = SIZE[::-1] if orientation >= 5 else SIZE
    for decode in (False, True):
        facts = look(data, decode=decode)
        assert (facts.width, facts.height) == upright == size_in_datasets(data)


def test_exif_may_stand_behind_the_pixels_of_a_png():
    data = encoded("PNG", exif=turned(6))
    chunks = png_chunks(data)
    exif = next(chunk for chunk in chunks if chunk[4:8] == b"eXIf")
    others = [chunk for chunk in chunks if chunk is not exif]
    moved = data[:8] + b"".join([*others[:-1], exif, others[-1]])
    assert (look(moved).width, look(moved).height) == SIZE[::-1] == size_in_datasets(moved)


def png_chunks(data):
    chunks, place = [], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[place:end])
        place = end
    return chunks


@pytest.mark.parametrize("tenths", range(1, 10))
@pytest.mark.parametrize("options", [{}, {"exif": turned(6)}, {"icc_profile": bytes(3_000)}])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_image_is_truncated(kind, options, tenths):
    data = encoded(kind, **options)
    cut = data[: len(data) * tenths // 10]
    for decode in (False, True):
        assert flaw(cut, decode=decode) is MissingReason.TRUNCATED


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_without_its_last_bytes(kind):
    data = encoded(kind)
    assert flaw(data[:-20]) is MissingReason.TRUNCATED
    assert flaw(data[:25]) is MissingReason.TRUNCATED


def test_a_jpeg_that_lacks_its_end_marker_is_kept_and_marked_where_it_decodes():
    facts = look(encoded("JPEG")[:-2] + bytes(64))
    assert (facts.width, facts.height, facts.mark) == (*SIZE, "no_end_marker")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_bytes_behind_the_end_do_no_harm(kind):
    facts = look(encoded(kind) + b"\r\n<!-- served by a proxy -->")
    assert (facts.width, facts.height) == SIZE
    assert facts.mark == {"PNG": None, "JPEG": "bytes_after_end"}[kind]


def test_a_jpeg_of_unknown_length_must_end_with_its_marker():
    data = encoded("JPEG")
    assert look(data, is_whole=False).mark is None
    for odd in (data[:-2] + bytes(64), data + b"more", data[:-2]):
        assert flaw(odd, is_whole=False) is MissingReason.TRUNCATED
    for kind in ("PNG", "WEBP"):  # these say themselves where they end
        assert look(encoded(kind), is_whole=False).mark is None


def with_thumbnail():
    """A JPEG that has another one inside of it, as cameras write them."""
    data, small = encoded("JPEG"), encoded("JPEG", PICTURE.resize((16, 12)))
    segment = b"Exif\0\0" + small
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture():
    data = with_thumbnail()
    assert look(data).mark is None
    assert look(data[:-2] + bytes(64)).mark == "no_end_marker"
    assert look(data + b"more").mark == "bytes_after_end"
    thumbnail_end = data.index(b"\xff\xd9") + 2
    for end in (thumbnail_end, thumbnail_end + 10, *range(1000, len(data) - 2, 500)):
        for is_whole in (True, False):
            assert flaw(data[:end], is_whole=is_whole) is MissingReason.TRUNCATED


def outcome(data):
    try:
        return look(data, decode=True)
    except FlawError as found:
        return found.reason


@pytest.mark.parametrize("kind", ALL_FORMATS)
def test_what_the_users_process_lets_pass_is_a_flaw_here(kind, monkeypatch):
    """Trainers tell Pillow to pass over holes; that must decide nothing here, and stay as it is."""
    rng = random.Random(kind)
    data = with_thumbnail() if kind == "JPEG" else encoded(kind)
    broken = [data, *[data[: rng.randrange(20, len(data))] for _ in range(30)]]
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(20):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        broken.append(bytes(changed))

    expected = [outcome(one) for one in broken]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert [outcome(one) for one in broken] == expected
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert any(isinstance(one, MissingReason) for one in expected)


def test_several_pictures_in_one_jpeg():
    data = encoded("MPO", save_all=True, append_images=[PICTURE])
    facts = look(data, decode=True)
    assert (facts.width, facts.height) == SIZE == size_in_datasets(data)


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"IEND"])
def test_a_png_chunk_with_a_wrong_crc_is_corrupt(name):
    data = bytearray(encoded("PNG"))
    end = data.index(name) + int.from_bytes(data[data.index(name) - 4 : data.index(name)], "big")
    data[end + 5] ^= 1  # of the four bytes behind the chunk's data
    assert flaw(bytes(data)) is MissingReason.CORRUPT


def test_a_png_that_moves_is_whole_to_its_last_picture():
    data = encoded("PNG", save_all=True, append_images=[PICTURE.rotate(90), PICTURE.rotate(180)])
    assert b"fdAT" in data
    assert (look(data).width, look(data, decode=True).height) == SIZE == size_in_datasets(data)
    place = data.rindex(b"fdAT") + 20
    assert flaw(data[:place]) is MissingReason.TRUNCATED
    broken = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    assert flaw(broken) is MissingReason.CORRUPT


def chunk(kind, body):
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def test_an_interlaced_png():
    header = chunk(b"IHDR", b"\0\0\0\x02\0\0\0\x02" + bytes([8, 0, 0, 0, 1]))
    # Of a picture of 2 x 2 pixels, passes 1, 6 and 7 hold lines: a filter's byte, then pixels.
    pixels = zlib.compress(b"\0\x10" + b"\0\x20" + b"\0\x30\x40")
    data = png(header, chunk(b"IDAT", pixels))
    assert (look(data).width, look(data, decode=True).height) == (2, 2) == size_in_datasets(data)


def test_a_png_without_pixels_is_corrupt():
    header = chunk(b"IHDR", b"\0\0\0\x02\0\0\0\x02" + bytes([8, 0, 0, 0, 0]))
    assert flaw(png(header)) is MissingReason.CORRUPT
    assert flaw(png(header), decode=True) is MissingReason.CORRUPT


@pytest.mark.parametrize("decode", [False, True])
def test_a_wrong_crc_counts_in_every_chunk_of_a_png(decode):
    """Also where no pixel depends on it: the bytes are not those that were made."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "hello")
    data = encoded("PNG", pnginfo=text)
    assert look(data, decode=decode).mark is None
    assert flaw(data.replace(b"hello", b"jello"), decode=decode) is MissingReason.CORRUPT


def test_a_png_whose_pixels_do_not_inflate_is_found_by_decoding():
    data = encoded("PNG")
    chunks = png_chunks(data)
    place = next(i for i, chunk in enumerate(chunks) if chunk[4:8] == b"IDAT")
    body = b"IDAT" + b"\x78\x9c" + bytes(len(chunks[place]) - 14)
    length = (len(body) - 4).to_bytes(4, "big")
    chunks[place] = length + body + zlib.crc32(body).to_bytes(4, "big")
    broken = data[:8] + b"".join(chunks)
    assert look(broken).width == SIZE[0]  # its chunks are whole
    assert flaw(broken, decode=True) in {MissingReason.CORRUPT, MissingReason.TRUNCATED}


NO_IMAGES = {
    "nothing": b"",
    "HTML": b"<!DOCTYPE html>\n<html><title>Too many requests</title></html>",
    "JSON": b'{"error": "not found"}',
    "zeros": bytes(5_000),
    "PDF": b"%PDF-1.7\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",  # would run Ghostscript
    "gzip": b"\x1f\x8b\x08\x00" + bytes(100),
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image(data):
    assert flaw(data) is MissingReason.NOT_AN_IMAGE
    assert flaw(data, decode=True) is MissingReason.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", ALL_FORMATS)
def test_max_pixels(kind):
    data = encoded(kind)
    pixels = SIZE[0] * SIZE[1]
    assert look(data, max_pixels=pixels).width == SIZE[0]
    assert flaw(data, max_pixels=pixels - 1) is MissingReason.TOO_MANY_PIXELS


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    data = bytearray(encoded("PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    assert flaw(bytes(data), max_pixels=10**8) is MissingReason.TOO_MANY_PIXELS


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("kind", ALL_FORMATS)
def test_any_broken_bytes_are_facts_or_a_flaw(kind, decode):
    rng = random.Random(kind)
    data = encoded(kind, exif=turned(6)) if kind in {*FORMATS, "TIFF"} else encoded(kind)
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(min(len(data), rng.choice([40, 200, 5000])))] = rng.randrange(256)
        try:
            facts = look(bytes(broken), decode=decode)
        except FlawError as found:
            assert isinstance(found.reason, MissingReason)  # noqa: PT017
        else:
            assert facts.width * facts.height <= MAX_PIXELS


# As text, or as bytes of no known kind: what a camera's or an editor's mistake leaves there.
MISTYPED = [("ResolutionUnit", 0x128), ("XResolution", 0x11A), ("YCbCrPositioning", 0x213)]


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("name", "tag"), MISTYPED)
def test_what_datasets_cannot_turn_upright_is_corrupt(name, tag, orientation, decode):
    for kind, (text, undefined) in {"JPEG": (2, 7), "PNG": (2, 7), "WEBP": (2, 7)}.items():
        for type_ in (text, undefined):
            data = encoded(kind, exif=exif_with(orientation, tag, type_))
            try:
                shown = size_in_datasets(data)
            except Exception:  # noqa: BLE001  (of many classes, which is the point)
                assert orientation > 1, (name, kind)
                assert flaw(data, decode=decode) is MissingReason.CORRUPT, (name, kind)
            else:
                found = look(data, decode=decode)
                assert (found.width, found.height) == shown


def test_some_mistyped_tags_break_datasets():
    for _, tag in MISTYPED:
        with pytest.raises((struct.error, TypeError)):
            size_in_datasets(encoded("JPEG", exif=exif_with(6, tag, 2)))


def xmp(orientation, form='tiff:Orientation="{}"', rest=b""):
    text = f"<x:xmpmeta><rdf:RDF {form.format(orientation)}/></x:xmpmeta>".encode() + rest
    return chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + text)


def raw_profile(orientation):
    exif = exif_with(orientation, 0x010F, 2)
    return f"\nexif\n{len(exif):8d}\n{exif.hex()}\n".encode()


TEXTS = {
    "software": chunk(b"tEXt", b"Software\0an editor"),
    "packed": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"drawn")),
    "international": chunk(b"iTXt", b"Title\0\0\0de\0Titel\0" + "schön".encode()),
    "xmp": xmp(1),
    "turned by xmp": xmp(6),
    "turned by an element of xmp": xmp("6</tiff:Orientation>", "><tiff:Orientation>{}"),
    "xmp that is not UTF-8": xmp(6, rest=b"\xff\xfe"),
    "exif": chunk(b"eXIf", turned(1).tobytes()[6:]),
    "turned by exif": chunk(b"eXIf", turned(8).tobytes()[6:]),
    "raw profile": chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(3)),
    "turned by a raw profile": chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(6))
    ),
    "no raw profile": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 2\nno hex\n"),
    "no exif": chunk(b"eXIf", b"MM"),
    "broken": chunk(b"zTXt", b"Comment\0\0" + b"no zlib"),
    "of another compression": chunk(b"zTXt", b"Comment\0\x07" + b"?"),
    "short": chunk(b"iTXt", b"Title"),
    "long": chunk(b"iTXt", b"Comment\0\x01\0\0\0" + zlib.compress(bytes(2_000_000))),
}


def with_texts(before, behind):
    first, *others = png_chunks(encoded("PNG"))
    return encoded("PNG")[:8] + b"".join([first, *before, *others[:-1], *behind, others[-1]])


def judged(data, **options):
    try:
        return look(data, **options)
    except FlawError as found:
        return found.reason


@pytest.mark.parametrize("seed", range(6))
def test_texts_before_and_behind_the_pixels_count_as_where_all_is_decoded(seed):
    alone = [[text] for text in TEXTS.values()]
    rng = random.Random(seed)
    some = [rng.sample([*TEXTS.values()], rng.randrange(3)) for _ in range(40)]
    cases = [*((one, []) for one in alone), *(([], one) for one in alone)] if not seed else []
    for before, behind in [*cases, *zip(some[::2], some[1::2], strict=True)]:
        data = with_texts(before, behind)
        found = judged(data)
        assert found == judged(data, decode=True)
        try:
            shown = size_in_datasets(data)
        except Exception:  # noqa: BLE001  (of many classes)
            assert isinstance(found, MissingReason)
        else:
            assert (found.width, found.height) == shown


class NoDecoder(ImageFile.PyDecoder):
    """Fails where somebody wants pixels."""

    def __init__(self, *_):
        raise AssertionError("decoded")


@pytest.mark.parametrize(
    "data",
    [
        *(with_texts(*places) for name in ("software", "packed", "international", "xmp", "exif")
          for places in ([[TEXTS[name]], []], [[], [TEXTS[name]]])),
        encoded("PNG", icc_profile=bytes(3_000)),
        encoded("JPEG"),
        encoded("JPEG", progressive=True),
        encoded("JPEG", icc_profile=bytes(70_000), exif=turned(1), comment="drawn"),
    ],
)  # fmt: skip
def test_no_pixel_is_decoded_for_what_is_whole_by_its_head(data, monkeypatch):
    for name in ("zip", "jpeg"):
        monkeypatch.setitem(Image.DECODERS, name, NoDecoder)
    found = look(data)
    assert (found.width, found.height) == SIZE
    with pytest.raises(FlawError, match="decoded"):
        look(data, decode=True)


BENT = {
    "a text of 2 MB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000))),
    "a profile of 2 MB": chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2_000_000))),
    "an international text of 2 MB": chunk(
        b"iTXt", b"Comment\0\x01\0\0\0" + zlib.compress(bytes(2_000_000))
    ),
    "a short gAMA": chunk(b"gAMA", b"\0"),
    "a short pHYs": chunk(b"pHYs", b"\0"),
    "a short cHRM": chunk(b"cHRM", b"\0"),
    "a short sRGB": chunk(b"sRGB", b""),
    "a short acTL": chunk(b"acTL", b"\0"),
}


@pytest.mark.parametrize("bent", BENT.values(), ids=BENT)
@pytest.mark.parametrize("decode", [False, True])
def test_leave_to_pass_over_holes_decides_nothing_at_opening_either(bent, decode, monkeypatch):
    data = encoded("PNG")
    data = data[:33] + bent + data[33:]

    def judged():
        try:
            return look(data, decode=decode)
        except FlawError as found:
            return found.reason

    strict = judged()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert judged() == strict
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
