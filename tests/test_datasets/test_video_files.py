"""Frames by index against decoding from the start: containers, codecs, damage, rotation, colors."""

import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from multiprocessing.pool import ThreadPool

import av
import numpy as np
import pytest

from mmswinv2.datasets import UnreadableVideo, open_video, video_files, write_video
from mmswinv2.datasets.video_files import VideoReader
from mmswinv2.errors import UserError

FRAMES, SIZE = 60, 64
OPEN_GOP = {'x264opts': 'keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0'}
REFRESH = {'x264opts': 'keyint=12:intra-refresh=1'}
HEVC = {'x265-params': 'keyint=15:log-level=none'}  # open GOPs, x265's default
# closed GOPs, with frames that are decoded after a key frame and shown before it
RADL = {'x265-params': 'keyint=15:min-keyint=15:open-gop=0:radl=2:log-level=none'}
PLAIN, B_FRAMES = {'g': '12'}, {'g': '12', 'bf': '2'}
ALT_REF = {'g': '24', 'auto-alt-ref': '1', 'lag-in-frames': '16', 'cpu-used': '5'}

# name: encoder, its options, pixel format
FILES = {
    'h264.mp4': ('libx264', PLAIN, 'yuv420p'),
    'h264-default.mp4': ('libx264', {}, 'yuv420p'),
    'h264.mov': ('libx264', PLAIN, 'yuv420p'),
    'h264.mkv': ('libx264', PLAIN, 'yuv420p'),
    'h264.flv': ('libx264', PLAIN, 'yuv420p'),
    'h264.ts': ('libx264', PLAIN, 'yuv420p'),
    'h264.3gp': ('libx264', PLAIN, 'yuv420p'),
    'h264.avi': ('libx264', PLAIN, 'yuv420p'),
    'h264-open.avi': ('libx264', OPEN_GOP, 'yuv420p'),
    'h264-no-b.avi': ('libx264', {'g': '12', 'bf': '0'}, 'yuv420p'),
    'h264.h264': ('libx264', PLAIN, 'yuv420p'),
    'h264-open.mp4': ('libx264', OPEN_GOP, 'yuv420p'),
    'h264-open.mkv': ('libx264', OPEN_GOP, 'yuv420p'),
    'h264-open.ts': ('libx264', OPEN_GOP, 'yuv420p'),
    'h264-refresh.mp4': ('libx264', REFRESH, 'yuv420p'),
    'h264-refresh.ts': ('libx264', REFRESH, 'yuv420p'),
    'h264-10bit.mp4': ('libx264', PLAIN, 'yuv420p10le'),
    'h264-interlaced.ts': ('libx264', {'x264opts': 'tff=1:keyint=12'}, 'yuv420p'),
    'hevc.mp4': ('libx265', HEVC, 'yuv420p'),
    'hevc.mkv': ('libx265', HEVC, 'yuv420p'),
    'hevc-radl.mp4': ('libx265', RADL, 'yuv420p'),
    'hevc-10bit.mp4': ('libx265', HEVC, 'yuv420p10le'),
    'vp8.webm': ('libvpx', ALT_REF, 'yuv420p'),
    'vp9.webm': ('libvpx-vp9', ALT_REF, 'yuv420p'),
    'av1.mp4': ('libsvtav1', {'g': '20', 'preset': '12'}, 'yuv420p'),
    'mpeg4.avi': ('mpeg4', PLAIN, 'yuv420p'),
    'mpeg4-b.avi': ('mpeg4', B_FRAMES, 'yuv420p'),
    'mpeg4-b.mp4': ('mpeg4', B_FRAMES, 'yuv420p'),
    'mpeg4-b.mkv': ('mpeg4', B_FRAMES, 'yuv420p'),
    'mpeg1.mpg': ('mpeg1video', B_FRAMES, 'yuv420p'),
    'mpeg2.mpg': ('mpeg2video', B_FRAMES, 'yuv420p'),
    'mpeg2.ts': ('mpeg2video', B_FRAMES, 'yuv420p'),
    'mpeg2.mkv': ('mpeg2video', B_FRAMES, 'yuv420p'),
    'wmv2.wmv': ('wmv2', PLAIN, 'yuv420p'),
    'msmpeg4.avi': ('msmpeg4', PLAIN, 'yuv420p'),
    'flv1.flv': ('flv', PLAIN, 'yuv420p'),
    'mjpeg.avi': ('mjpeg', {}, 'yuvj420p'),
    'ffv1.mkv': ('ffv1', {}, 'yuv420p'),
    'prores.mov': ('prores_ks', {}, 'yuv422p10le'),
    'qtrle.mov': ('qtrle', {}, 'rgb24'),  # FFmpeg's decoder marks no key frames
    'theora.ogv': ('libtheora', {}, 'yuv420p'),
}


def picture(i, size=SIZE):
    """A picture with the number as gray level above, and a moving pattern below."""
    image = np.full((size, size, 3), 10 + 4 * i, np.uint8)
    noise = np.random.default_rng(i // 7).integers(0, 255, (16, 16, 3))
    x = 3 * i % (size - 16)
    image[size - 20 : size - 4, x : x + 16] = noise
    return image


def number(image):
    return round((image[: SIZE // 2].mean() - 9.5) / 4)  # lossy coding mostly changes it by 0 to 1


def write(path, codec='libx264', options=PLAIN, pix_fmt='yuv420p', frames=FRAMES, **kwargs):
    """Encode `frames` pictures; `times` gives each one's, in ms, `mux` options of the container."""
    times, size = kwargs.get('times'), kwargs.get('size', SIZE)
    if codec not in av.codecs_available or 'w' not in modes(codec):
        pytest.skip(f'this FFmpeg has no encoder {codec}')
    with av.open(str(path), 'w', options=kwargs.get('mux', {})) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.bit_rate = 3_000_000
        stream.codec_context.colorspace = kwargs.get('matrix', 2)
        stream.codec_context.color_range = kwargs.get('range', 0)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound = out.add_stream('aac', rate=48000, layout='mono') if 'sound' in kwargs else None
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, size), format='rgb24')
            if times:
                frame.pts, frame.time_base = times(i), Fraction(1, 1000)
            out.mux(stream.encode(frame))
            if sound:
                samples = np.zeros((1, 1920), np.float32)
                frame = av.AudioFrame.from_ndarray(samples, format='fltp', layout='mono')
                frame.sample_rate, frame.pts = 48000, 1920 * i
                out.mux(sound.encode(frame))
        for each in (stream, sound):
            if each:
                out.mux(each.encode())
    return path


def modes(codec):
    found = ''
    for mode in 'rw':
        with suppress(ValueError):
            av.codec.Codec(codec, mode)
            found += mode
    return found


def copied(source, target, change, template=None):
    """Copy a file's packets, after `change(list of packets)`, into another file."""
    with av.open(str(source)) as old, av.open(str(target), 'w') as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in change([p for p in old.demux(video=0) if p.size]):
            packet.stream = stream
            new.mux(packet)
    return target


def from_the_start(path):
    """All frames of a file that can be decoded, in decoder output order."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.best('video')
        stream.codec_context.thread_count = 1
        packets = container.demux(stream)
        with suppress(av.error.FFmpegError):
            for packet in packets:
                with suppress(av.error.FFmpegError):
                    found += stream.decode(packet) if packet.size else []
        with suppress(av.error.FFmpegError):
            found += stream.decode(None)
        return [frame.to_ndarray(format='rgb24') for frame in found]


def assert_exact(path, frames=None):
    """Check that frames of a file, alone and together, equal those of decoding from the start.

    Returns the frames and the last reader.
    """
    path = str(path)
    truth = from_the_start(path)
    last = len(truth) - 1
    if frames is not None:
        assert len(truth) == frames
    rng = np.random.default_rng(0)
    asked = [[last], [0], [last, 0, last // 2, last // 2], list(range(last + 1))]
    asked += [[i] for i in range(11, last, 12)]
    asked += [rng.integers(0, last + 1, 5).tolist() for _ in range(2)]
    asked += [[min(start + 4 * i, last) for i in range(8)] for start in (0, last // 3, last // 2)]
    for indices in asked:
        reader = open_video(path)
        assert len(reader) == len(truth)
        for _ in range(2):  # the second time uses what the first has found
            got = reader.read(indices)
            assert got.dtype == np.uint8
            wrong = [i for i, image in zip(indices, got, strict=True) if (image != truth[i]).any()]
            assert not wrong, f'{len(wrong)} of {indices} are others'
    return truth, reader


@pytest.mark.parametrize('name', FILES)
def test_frames_by_number(tmp_path, name):
    truth, _ = assert_exact(write(tmp_path / name, *FILES[name]), FRAMES)
    assert [number(image) for image in truth] == list(range(FRAMES))


# files read by seeking to key frames, without decoding or counting all frames before
FAST = ['h264.mp4', 'h264-open.mp4', 'h264-refresh.mp4', 'hevc.mp4', 'hevc-radl.mp4', 'h264.ts',
        'mpeg4-b.mp4', 'vp9.webm', 'av1.mp4', 'mpeg4-b.avi', 'h264.mkv']  # fmt: skip


@pytest.mark.parametrize('name', FAST)
def test_little_is_decoded(tmp_path, name, monkeypatch):
    path = write(tmp_path / name, *FILES[name])
    monkeypatch.setattr(VideoReader, '_decode_all', None)
    seen = []

    def images(frames, wanted):
        for n, frame in frames:
            seen.append(n)
            yield n, frame.to_ndarray(format='rgb24')

    monkeypatch.setattr(video_files, '_images', images)
    assert number(VideoReader(str(path)).read([50])[0]) == 50
    assert seen[-1] == 50 and len(seen) <= 24


@pytest.mark.parametrize('frames', [1, 2, 3])
@pytest.mark.parametrize('name', ['h264.mp4', 'hevc.mkv', 'mpeg4-b.avi', 'vp9.webm', 'mjpeg.avi'])
def test_few_frames(tmp_path, name, frames):
    assert_exact(write(tmp_path / name, *FILES[name], frames=frames), frames)


def uneven(i):
    return 40 * i + i * i % 7 * 5 + (2000 if i > 30 else 0)


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv'])
def test_frames_at_uneven_times(tmp_path, name):
    _, reader = assert_exact(write(tmp_path / name, times=uneven), FRAMES)
    assert reader._keys  # decoding once confirmed them, so they are used


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.webm', 'a.ts'])
def test_frames_per_second_of_uneven_times(tmp_path, name):
    """Screens and browsers record so; Matroska tells the rate of the encoder all the same."""
    codec = 'libvpx-vp9' if name.endswith('webm') else 'libx264'
    path = write(
        tmp_path / name, codec, times=lambda i: 40 * i if i < 30 else 1200 + 100 * (i - 30)
    )
    assert open_video(str(path)).fps == pytest.approx(59 / 4.1, rel=0.04)
    even = write(tmp_path / f'even-{name}', codec)
    assert open_video(str(even)).fps == 25


@pytest.mark.parametrize('frames', [2, 5, 40])
def test_frames_per_second_of_reordered_frames_in_avi(tmp_path, frames):
    """AVI has no times of display, and the decoder gives those of packets in another order."""
    path = write(tmp_path / 'a.avi', options={'bf': '3', 'g': '12'}, frames=frames)
    reader = open_video(str(path))
    assert reader.fps == 25 and reader.times is None and len(reader) == frames


@pytest.mark.parametrize('begin', [0, 4000])
def test_frames_per_second_of_joined_files(tmp_path, begin):
    """Times begin anew where files are joined."""
    parts = [write(tmp_path / 'a.ts', times=lambda i: begin + 40 * i), write(tmp_path / 'b.ts')]
    joined = tmp_path / 'joined.ts'
    joined.write_bytes(b''.join(part.read_bytes() for part in parts))
    assert open_video(str(joined)).fps == pytest.approx(25, rel=0.05)


def test_sound_beside(tmp_path):
    for name in ('a.mp4', 'a.mkv'):
        assert_exact(write(tmp_path / name, sound=True), FRAMES)


def test_a_cover_picture_is_no_video(tmp_path):
    """In Matroska, a cover is not marked; it differs only in having a single frame."""
    source = write(tmp_path / 'plain.mkv')
    with av.open(str(source)) as old, av.open(str(tmp_path / 'a.mkv'), 'w') as new:
        cover = new.add_stream('mjpeg', rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 96, 'yuvj420p'
        stream = new.add_stream_from_template(old.streams.video[0])
        image = av.VideoFrame.from_ndarray(np.zeros((96, 96, 3), np.uint8), format='rgb24')
        new.mux(cover.encode(image) + cover.encode())
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    assert_exact(tmp_path / 'a.mkv', FRAMES)


CUT = ['fast.mp4', 'frag.mp4', 'h264.mkv', 'h264.flv', 'h264.ts', 'h264-open.ts', 'hevc.mkv',
       'mpeg4-b.avi', 'h264.avi', 'mpeg2.mpg', 'mpeg2.ts', 'wmv2.wmv', 'vp9.webm']  # fmt: skip
MUX = {'fast.mp4': {'movflags': '+faststart'}, 'frag.mp4': {'movflags': 'frag_keyframe+empty_moov'}}


@pytest.mark.parametrize('name', CUT)
def test_files_that_promise_more(tmp_path, name):
    """Broken downloads: truncated files, and files with zeros for the rest or for a part."""
    path = write(tmp_path / name, *FILES.get(name, ()), mux=MUX.get(name, {}))
    data, (start, end) = path.read_bytes(), (0.55, 0.6)
    size = len(data)
    holes = [data[: int(share * size)] for share in (0.5, 0.6, 0.95)]
    holes += [data[: int(0.7 * size)] + bytes(size - int(0.7 * size))]
    if name in ('fast.mp4', 'frag.mp4', 'h264.mkv', 'h264.ts', 'h264.avi'):
        zeros = bytes(int(end * size) - int(start * size))
        holes += [data[: int(start * size)] + zeros + data[int(start * size) + len(zeros) :]]
    for hole in holes:
        path.write_bytes(hole)
        truth, _ = assert_exact(path)
        assert 0 < len(truth) < FRAMES or hole is holes[2]


LOST = {
    'middle': lambda i: 20 <= i < 25,
    'key': lambda i: i in (12, 13, 24),
    'start': lambda i: i < 5,
    'first': lambda i: i == 0,
}


@pytest.mark.parametrize('lost', LOST)
@pytest.mark.parametrize(
    'name', ['h264.mp4', 'h264.mkv', 'h264-open.mp4', 'hevc.mp4', 'h264.ts', 'mpeg4-b.avi']
)
def test_lost_packets(tmp_path, name, lost):
    source = write(tmp_path / f'whole_{name}', *FILES[name])

    def left(packets):
        return [packet for i, packet in enumerate(packets) if not LOST[lost](i)]

    truth, _ = assert_exact(copied(source, tmp_path / name, left))
    assert len(truth) <= FRAMES  # in an AVI, earlier frames are repeated


def box(data, name, change):
    """Change the content of a box of an MP4 file."""
    start = data.index(name.encode())
    end = start - 4 + struct.unpack('>I', data[start - 4 : start])[0]
    return data[: start + 4] + change(data[start + 4 : end]) + data[end:]


@pytest.mark.parametrize('name', ['h264.mp4', 'h264-open.mp4', 'hevc.mp4', 'mpeg4-b.mp4'])
@pytest.mark.parametrize('left_out', [5, 17])
def test_edit_lists(tmp_path, name, left_out):
    """Videos cut without re-encoding contain first frames that are decoded but not shown."""
    path = write(tmp_path / name, *FILES[name])
    whole = path.read_bytes()
    tick = struct.unpack('>I', whole[whole.index(b'mdhd') + 16 :][:4])[0] // 25

    def later(content):
        duration, start = struct.unpack('>Ii', content[8:16])
        return (
            content[:8] + struct.pack('>Ii', duration - 400, start + left_out * tick) + content[16:]
        )

    path.write_bytes(box(whole, 'elst', later))
    truth, reader = assert_exact(path)
    assert number(truth[0]) == left_out and reader._keys


@pytest.mark.parametrize('name', ['hevc.mp4', 'mpeg4-b.mp4', 'wmv2.wmv'])
def test_frames_wrongly_called_key_frames(tmp_path, name):
    def all_keys(packets):
        for packet in packets:
            packet.is_keyframe = True
        return packets

    path = copied(write(tmp_path / f'whole_{name}', *FILES[name]), tmp_path / name, all_keys)
    with av.open(str(path)) as container:
        assert all(p.is_keyframe for p in container.demux(video=0) if p.size)
    assert_exact(path, FRAMES)


def test_packed_b_frames(tmp_path):
    """DivX in AVI puts a B frame into the packet of the frame after it, followed by a stub."""
    source = write(tmp_path / 'whole.avi', 'mpeg4', {'g': '12', 'bf': '1', 'b_strategy': '0'})
    vop = b'\0\0\1\xb6'

    def kind(data):
        return data[data.index(vop) + 4] >> 6  # I, P, B

    def pack(packets):
        data, packed = [bytes(packet) for packet in packets], []
        for i, each in enumerate(data):
            if packets[i].is_keyframe and kind(each) == 0:
                each = each.replace(vop, b'\0\0\1\xb2DivX503b1393p' + vop, 1)
            if kind(each) == 2:
                each = vop + b'\x50\0\x7f'
            elif i + 1 < len(data) and kind(data[i + 1]) == 2:
                each += data[i + 1]
            new = av.Packet(each)
            new.pts = new.dts = i
            new.time_base, new.is_keyframe = packets[i].time_base, kind(each) == 0
            packed.append(new)
        return packed

    truth, _ = assert_exact(copied(source, tmp_path / 'a.avi', pack), FRAMES)
    assert [number(image) for image in truth] == list(range(FRAMES))


def golomb(number):
    number += 1
    return '0' * (number.bit_length() - 1) + f'{number:b}'


def unit(kind, bits):
    """A NAL unit of H.264, with emulation prevention bytes against false start codes."""
    bits += '1'
    data = int(bits.ljust(-(-len(bits) // 8) * 8, '0'), 2).to_bytes(-(-len(bits) // 8), 'big')
    kept = bytearray()
    for byte in data:
        if kept[-2:] == b'\0\0' and byte < 4:
            kept.append(3)
        kept.append(byte)
    return b'\0\0\0\1' + bytes([kind]) + kept


# sequence parameters (64x64, interlaced, 8 bits of display order) and picture parameters
SEQUENCE = unit(0x67, f'{77:08b}{0:08b}{30:08b}' + '1' * 3 + golomb(4) + golomb(1) + '0'
                + golomb(3) + golomb(1) + '00100')  # fmt: skip
PARAMETERS = unit(0x68, '1' * 2 + '00' + '1' * 3 + '000' + '1' * 3 + '100')


def field(first_of_group, frame, bottom, gray):
    """A field of 4 x 2 uncompressed macroblocks."""
    bits = '1' + golomb(7) + '1' + f'{frame % 16:04b}1{bottom}' + ('1' if first_of_group else '')
    bits += (
        f'{(2 * frame + bottom) % 256:08b}' + ('00' if first_of_group else '0') + '1' + golomb(1)
    )
    for _ in range(8):
        bits += golomb(25)
        bits = bits.ljust(-(-len(bits) // 8) * 8, '0') + f'{gray:08b}' * 256 + f'{128:08b}' * 128
    return unit(0x65 if first_of_group else 0x61, bits)


@pytest.mark.parametrize('name', ['fields.ts', 'fields.mkv', 'fields.mp4'])
def test_fields_in_packets_of_their_own(tmp_path, name):
    """In interlaced H.264 of broadcasters, a frame is two packets, each with a timestamp."""
    path, frames, group = str(tmp_path / name), 30, 6
    with av.open(path, 'w') as out:
        stream = out.add_stream('libx264', rate=25)
        stream.width = stream.height = 64
        stream.codec_context.extradata = SEQUENCE + PARAMETERS
        for i in range(2 * frames):
            first, frame = i % (2 * group) == 0, i // 2 % group
            head = b'\0\0\0\1\x09\x10' + (SEQUENCE + PARAMETERS if first else b'')
            packet = av.Packet(head + field(first, frame, i % 2, 20 + 4 * (i // 2)))
            packet.stream, packet.time_base = stream, Fraction(1, 50)
            packet.pts = packet.dts = i
            packet.is_keyframe = first
            out.mux(packet)
    assert len(from_the_start(path)) == frames
    assert_exact(path)


@pytest.mark.parametrize('name', ['n.avi', 'n.mp4', 'n.mkv'])
def test_packets_that_repeat_a_frame(tmp_path, name):
    """DivX and Xvid write only a header for an unchanged frame; decoders return no frame for it."""
    write(tmp_path / f'all-{name}', 'mpeg4', PLAIN)

    def change(packets):
        for i in (5, 6, 20):  # P frame, second, marker, time, marker, not coded, stuffing
            bits = f'0101{i:05b}1001111'
            short = av.Packet(b'\0\0\1\xb6' + int(bits, 2).to_bytes(2, 'big'))
            old = packets[i]
            short.pts, short.dts, short.time_base = old.pts, old.dts, old.time_base
            packets[i] = short
        return packets

    copied(tmp_path / f'all-{name}', tmp_path / name, change)
    assert len(from_the_start(tmp_path / name)) == FRAMES - 3
    assert_exact(tmp_path / name)


def test_a_key_frame_with_the_time_of_another_frame(tmp_path):
    """Occurs in Matroska, whose timestamps are milliseconds, at more than 1000 frames a second."""
    write(tmp_path / 'slow.mkv', 'libx264', {'g': '5', 'bf': '0', 'sc_threshold': '0'})

    def change(packets):
        for i, packet in enumerate(packets):
            packet.pts = packet.dts = i // 2
            packet.time_base = Fraction(1, 1000)
        return packets

    copied(tmp_path / 'slow.mkv', tmp_path / 'fast.mkv', change)
    truth, _ = assert_exact(tmp_path / 'fast.mkv', FRAMES)
    for i, image in enumerate(truth):
        assert np.array_equal(open_video(str(tmp_path / 'fast.mkv')).read([i])[0], image)


def test_tags_in_another_encoding(tmp_path):
    path = tmp_path / 'a.avi'
    with av.open(str(path), 'w') as out:
        out.metadata['title'] = 'XXXXXX'
        stream = out.add_stream('mpeg4', rate=25)
        stream.width = stream.height = SIZE
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(3), format='rgb24')))
        out.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b'XXXXXX', b'Stra\xdfe'))
    assert number(open_video(str(path)).read([0])[0]) == 3


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    paths = [write(tmp_path / f'{size}.ts', size=size, frames=12) for size in (64, 96)]
    path = tmp_path / 'a.ts'
    path.write_bytes(b''.join(p.read_bytes() for p in paths))
    reader = open_video(str(path))
    assert len(reader) == 24 and reader.read([2, 20]).shape == (2, 64, 64, 3)
    assert number(reader.read([2, 20])[1]) == 8 and reader.read([20]).shape == (1, 96, 96, 3)


ONE, SIDE, W = 1 << 16, SIZE << 16, 1 << 30
TURNS = {  # the display matrix, and the function from the stored to the displayed image
    'quarter': ((0, ONE, 0, -ONE, 0, 0, SIDE, 0, W), lambda x: np.rot90(x, -1)),
    'half': ((-ONE, 0, 0, 0, -ONE, 0, SIDE, SIDE, W), lambda x: x[::-1, ::-1]),
    'three quarters': ((0, -ONE, 0, ONE, 0, 0, 0, SIDE, W), lambda x: np.rot90(x)),
    'mirrored': ((-ONE, 0, 0, 0, ONE, 0, SIDE, 0, W), lambda x: x[:, ::-1]),
    'upside down, mirrored': ((ONE, 0, 0, 0, -ONE, 0, 0, SIDE, W), lambda x: x[::-1]),
    'transposed': ((0, ONE, 0, ONE, 0, 0, 0, 0, W), lambda x: x.swapaxes(0, 1)),
    'transposed, half': (
        (0, -ONE, 0, -ONE, 0, 0, SIDE, SIDE, W),
        lambda x: np.rot90(x.swapaxes(0, 1), 2),
    ),
    'not at all': ((ONE, 0, 0, 0, ONE, 0, 0, 0, W), lambda x: x),
}


@pytest.mark.parametrize('turn', TURNS)
def test_turned_and_mirrored(tmp_path, turn):
    """Phones write such videos, with the orientation in the track's display matrix."""
    path = write(tmp_path / 'a.mp4')
    matrix, turned = TURNS[turn]
    path.write_bytes(
        box(path.read_bytes(), 'tkhd', lambda c: c[:40] + struct.pack('>9i', *matrix) + c[76:])
    )
    expected = [turned(image) for image in from_the_start(path)]
    reader = open_video(str(path))
    assert (reader.read([41, 7]) == np.stack([expected[41], expected[7]])).all()
    assert (np.stack(list(reader)) == np.stack(expected)).all()


# matrix coefficients of ITU-T H.273: weights of red and blue
MATRICES = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('matrix', MATRICES)
@pytest.mark.parametrize(('codec', 'name'), [('libx264', 'a.mp4'), ('libvpx-vp9', 'a.webm')])
def test_colors_are_those_of_the_tags(tmp_path, codec, name, matrix, full):
    """Colors are converted as decord, and with it mmaction2, converts them."""
    kwargs = dict(matrix=matrix, range=2 if full else 0, frames=2)
    path = write(tmp_path / name, codec, {}, **kwargs)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.colorspace == matrix and (frame.color_range == 2) == full
        y, u, v = (
            np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].astype(float)
            for plane in frame.planes
        )
    u, v = (np.kron(plane, np.ones((2, 2))) - 128 for plane in (u, v))
    red, blue = MATRICES[matrix]
    y, u, v = (y, u / 255, v / 255) if full else ((y - 16) * 255 / 219, u / 224, v / 224)
    r, b = y + 255 * 2 * (1 - red) * v, y + 255 * 2 * (1 - blue) * u
    expected = np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], axis=-1)
    got = open_video(str(path)).read([0])[0]
    assert np.abs(got - expected.clip(0, 255)).max() < 4


def test_numbers_that_are_none(tmp_path):
    path = str(write(tmp_path / 'a.mp4', frames=5))
    for bad in (-1, 5, 99):
        with pytest.raises(UnreadableVideo, match=f'a.mp4: no frame {bad}, only 0 to 4'):
            open_video(path).read([0, bad])
    assert open_video(path).read(np.array([4, 0, 4])).shape == (3, SIZE, SIZE, 3)


def test_files_without_frames(tmp_path):
    with av.open(str(tmp_path / 'sound.mp4'), 'w') as out:
        sound = out.add_stream('aac', rate=48000, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
        frame.sample_rate = 48000
        out.mux(sound.encode(frame) + sound.encode())
    (tmp_path / 'empty.mp4').write_bytes(b'')
    (tmp_path / 'text.mp4').write_text('no video')
    whole = write(tmp_path / 'whole.mp4').read_bytes()
    (tmp_path / 'header.mp4').write_bytes(whole[:900])
    words = {'sound': 'no video stream', 'empty': 'Invalid data', 'text': 'Invalid data',
             'header': 'Invalid data', 'none': 'No such file'}  # fmt: skip
    for name, reason in words.items():
        with pytest.raises(UnreadableVideo, match=f'{name}.mp4: .*{reason}'):
            open_video(str(tmp_path / f'{name}.mp4'))
    with pytest.raises(UnreadableVideo, match='no regular file'):
        open_video(str(tmp_path))


def test_without_pyav(tmp_path, monkeypatch):
    path = write(tmp_path / 'a.mp4', frames=1)
    monkeypatch.setitem(__import__('sys').modules, 'av', None)
    with pytest.raises(UserError, match='pip install av'):
        open_video(str(path))


def test_readers_hold_no_file_and_are_shared(tmp_path):
    paths = [write(tmp_path / name, *FILES[name]) for name in ('h264.mp4', 'h264.avi', 'mpeg2.mpg')]
    readers = [open_video(str(path)) for path in paths for _ in range(4)]
    truth = {reader.path: reader.read(range(FRAMES)) for reader in readers[::4]}

    def look(i):
        reader = pickle.loads(pickle.dumps(readers[i % len(readers)]))
        indices = np.random.default_rng(i).integers(0, FRAMES, 6)
        return (reader.read(indices) == truth[reader.path][indices]).all()

    with ThreadPool(8) as pool:
        assert all(pool.map(look, range(48)))
        before = len(os.listdir('/proc/self/fd'))
        next(iter(readers[0]))  # and not continued
        assert all(pool.map(look, range(48)))
        assert len(os.listdir('/proc/self/fd')) <= before


def test_pipes_and_folders_are_no_videos(tmp_path):
    os.mkfifo(tmp_path / 'pipe.mp4')
    (tmp_path / 'folder.mp4').mkdir()
    for name in ('pipe.mp4', 'folder.mp4'):
        with pytest.raises(UnreadableVideo, match=f'cannot read the video .*{name}: no regular'):
            open_video(str(tmp_path / name))


def test_videos_of_long_names_are_written_side_by_side(tmp_path):
    paths = [tmp_path / f'2026-11-28_camera_front_left_of_the_building_{i}.mp4' for i in (1, 2)]
    with ThreadPoolExecutor() as pool:
        for path in paths:
            frames = [np.full((32, 32, 3), 100 * int(path.stem[-1]), np.uint8)] * 30
            pool.submit(write_video, path, frames, 10)
    for path in paths:
        assert abs(next(iter(open_video(str(path)))).mean() - 100 * int(path.stem[-1])) < 5
    assert sorted(tmp_path.iterdir()) == paths


def test_the_size_of_a_video_is_set_before_its_first_frame_alone(tmp_path):
    """PyAV 18 refuses to set it later, the same one too."""

    class Strict:
        def __init__(self, stream):
            vars(self)['stream'] = stream

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def __setattr__(self, name, value):
            assert not self.stream.codec_context.is_open, name
            setattr(self.stream, name, value)

    with video_files.VideoWriter(tmp_path / 'a.mp4', 10) as video:
        video._stream = Strict(video._stream)
        for _ in range(3):
            video.write(np.full((33, 32, 3), 90, np.uint8))
    assert len(open_video(str(tmp_path / 'a.mp4'))) == 3


def test_videos_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'out.mp4'

    def frames(number, fails=False):
        for i in range(number):
            yield np.full((32, 32, 3), 20 * i, np.uint8)
        if fails:
            raise ValueError('no more of them')

    write_video(path, frames(5), 10)
    assert len(open_video(str(path))) == 5
    with pytest.raises(ValueError, match='no more of them'):
        write_video(path, frames(2, fails=True), 10)
    assert len(open_video(str(path))) == 5 and [p.name for p in tmp_path.iterdir()] == ['out.mp4']


@pytest.mark.parametrize('name', ['a.mkv', 'a.mp4', 'a.webm'])
def test_frames_of_an_uneven_video_are_written_at_their_times(name, tmp_path):
    """Such as a recording of a screen, which has a frame where something has changed."""
    wanted = [0, 50, 70, 500, 1000, 2200, 2210, 3000]  # ms
    codec = 'libvpx-vp9' if name.endswith('webm') else 'libx264'
    write(tmp_path / name, codec, {}, frames=8, times=wanted.__getitem__)
    reader = open_video(str(tmp_path / name))
    write_video(tmp_path / 'out.mp4', iter(reader), reader.fps, times=reader.times)
    with av.open(str(tmp_path / 'out.mp4')) as video:
        frames = [(frame.time, frame.to_ndarray(format='rgb24')) for frame in video.decode(video=0)]
        assert video.duration / 1e6 > 3  # the last frame is shown, too
    assert [round(1000 * time) for time, _ in frames] == wanted
    assert [number(image) for _, image in frames] == pytest.approx(range(8), abs=1)
    assert reader.times == pytest.approx([time / 1000 for time in wanted])


@pytest.mark.parametrize(
    ('seconds', 'written'),
    [
        ([0, 0.1, 86400, 86400.1, 86400.2], None),  # a gap of a day
        ([0, 0.033, 0.066, 0.066001, 0.1], [0, 0.033, 0.066, 0.0661, 0.1]),
        ([0, 0, 0.1, 0.1, 0.1, 0.2], [0, 0.0001, 0.1, 0.1001, 0.1002, 0.2]),
        ([i * 1001 / 24000 + i // 4 for i in range(8)], None),
    ],
)
def test_every_frame_is_written_with_a_time_of_its_own(seconds, written, tmp_path):
    images = np.zeros((len(seconds), 48, 64, 3), np.uint8)
    write_video(tmp_path / 'out.mp4', images, 24, times=seconds)
    with av.open(str(tmp_path / 'out.mp4')) as video:
        times = [frame.time for frame in video.decode(video=0)]
    assert times == pytest.approx(written or seconds, abs=0.6e-4, rel=0)  # in units of 1e-4


@pytest.mark.parametrize('fps', [Fraction(30000, 1001), 24, 60, 7.5])
def test_rounded_times_are_of_an_even_video(fps, tmp_path):
    """Matroska rounds to milliseconds."""
    write(tmp_path / 'a.mkv', frames=9, times=lambda i: round(1000 * i / fps))
    assert open_video(str(tmp_path / 'a.mkv')).times is None
