"""A client of an exported model in TensorFlow Serving that needs neither TensorFlow nor this package.

Copy this file into your project. It needs numpy; `grpc://` addresses also need grpcio, masks in the forms `png` and
`image_png` need Pillow. In Python:

    model = Model('grpc://localhost:8500/mine')        # or http://localhost:8501/mine
    answer, = model.detect([open('photo.jpg', 'rb').read()])
    if answer['status'] == 0:
        for box, score, name, mask in zip(answer['boxes'], answer['scores'], answer['names'], model.masks(answer)): ...

or as a command, which prints a line of JSON for each image:

    python light_client.py grpc://localhost:8500/mine photo.jpg

B images of a request, n detections of an image, m cells a side of a mask, H x W an image in px. The messages of gRPC
are written and read by their field numbers: those of TensorFlow Serving's predict.proto and TensorFlow's tensor.proto.
"""
from __future__ import annotations

import base64
import http.client
import io
import itertools
import json
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

STATUS = {0: 'OK', 1: 'neither a JPEG nor a PNG', 2: 'damaged', 3: 'more pixels than the model allows',
          4: 'has an EXIF orientation, which the model refuses'}
MAX_BYTES = 64 * 2 ** 20    # of the files of a request: the limit of `mrcnn serve`

_PREDICT = '/tensorflow.serving.PredictionService/Predict'
_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 9: np.int64, 10: np.bool_}
_STRING = 7
_FLOATS = {5: np.float32, 6: np.float64}    # fields of a TensorProto: float_val, double_val
_INTEGERS = (7, 10, 11)                     # int_val, int64_val, bool_val
_TEMPORARY = (429, 502, 503, 504)           # HTTP
_FIRST_PAUSE, _LONGEST_PAUSE = .1, 3.       # seconds between tries
_THRESHOLD = .5                             # probability of a pixel of a mask


class RemoteError(OSError):
    """A request that a server did not answer; the message is one line: the address, what is wrong, the remedy.

    Attributes:
        temporary: whether the same request may succeed later.
    """

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class Model:
    """An exported model that a server has. It may be used by several threads.

    Args:
        address: 'grpc://HOST:PORT/NAME' or 'http://HOST:PORT/NAME'; 'grpcs' and 'https' are encrypted.
        timeout: seconds for an answer, with all tries.
        retries: how often a request is sent again if the server cannot be reached or is busy.

    Raises:
        RemoteError: the address is none of these, or grpcio is not installed.
    """

    def __init__(self, address: str, timeout: float = 60., retries: int = 5) -> None:
        parts = urllib.parse.urlsplit(address)
        self.address, self.name = address, parts.path.strip('/')
        if parts.scheme not in _PROTOCOLS or not parts.netloc or not self.name or '/' in self.name:
            raise RemoteError(f'{address}: expected grpc://HOST:PORT/NAME or http://HOST:PORT/NAME')
        self._timeout, self._retries = timeout, retries
        self._ask = _PROTOCOLS[parts.scheme](parts, self.name)
        self._description: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Return what the export says of the model: `categories`, `masks` (their form), `paste`, `exif`, `max_pixels`.

        Raises:
            RemoteError: as `predict`; also if the model has no signature `describe`, as those of older exports.
        """
        if self._description is None:
            answer, = self.predict('describe', {'index': np.zeros([1], np.int32)}).values()
            self._description = json.loads(answer[0])
        return self._description

    def detect(self, images: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return the detections of each image.

        Args:
            images: contents of JPEG or PNG files.

        Returns:
            For each image `status` (a key of STATUS), `size` (H, W), `boxes` float32 [n, 4] (y1, x1, y2, x2 in px of
            the image), `scores` float32 [n], `labels` and `category_ids` int32 [n], `names`, best first, and the masks
            as the server sends them; see `masks`.

        Raises:
            RemoteError: as `predict`, or the images are larger than MAX_BYTES.
        """
        size = sum(map(len, images))
        if size > MAX_BYTES:
            raise RemoteError(f'{self.address}: {len(images)} images have {size} bytes; send at most {MAX_BYTES} in a '
                              'request')
        if not images:
            return []
        names = {each['id']: each['name'] for each in self.describe()['categories']}
        outputs = self.predict('detect', {'image_bytes': list(images)})
        return [_answer({name: value[i] for name, value in outputs.items()}, names) for i in range(len(images))]

    def masks(self, answer: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """Yield the masks of an answer in the whole image, bool [H, W]; none if the model has no masks."""
        described = self.describe()
        name = next((name for name in answer if name.startswith('masks')), None)
        for value, box in zip(answer[name] if name else [], answer['boxes'], strict=False):
            yield _mask(value, described['masks'], box, answer['size'], described['paste'])

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the outputs of a signature by name.

        Args:
            signature: its name.
            inputs: by name, an array or a list of bytes.

        Raises:
            RemoteError: the server cannot be reached, has no such model or signature, or refuses the inputs.
        """
        end = time.monotonic() + self._timeout
        for attempt in itertools.count():
            try:
                return self._ask(signature, inputs, end - time.monotonic())
            except RemoteError as error:
                pause = min(_FIRST_PAUSE * 2 ** attempt, _LONGEST_PAUSE) * random.uniform(.5, 1)
                if not error.temporary or attempt >= self._retries or time.monotonic() + pause >= end:
                    raise RemoteError(f'{self.address}: {error}', error.temporary) from None
                time.sleep(pause)
            except (ValueError, LookupError, TypeError) as error:
                raise RemoteError(f'{self.address}: the answer is not one of TensorFlow Serving ({error!r}); is this '
                                  'its port?') from None
        raise AssertionError    # the loop has no end


def _answer(outputs: dict[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    """Return the valid detections of an image."""
    valid = outputs.pop('valid')
    status, size = int(outputs.pop('status')), tuple(outputs.pop('sizes').tolist())
    found = {name: value[valid] for name, value in outputs.items()}
    found['names'] = [names[number] for number in found['category_ids'].tolist()]
    return {'status': status, 'size': size, **found}


# gRPC

def _grpc(parts: urllib.parse.SplitResult, model: str) -> Callable[..., dict[str, np.ndarray]]:
    """Return a function that asks a model over gRPC: (signature, inputs, seconds) -> outputs."""
    try:
        import grpc
    except ImportError:
        raise RemoteError(f'{parts.geturl()}: needs the package grpcio: pip install grpcio') from None
    options = [('grpc.max_receive_message_length', -1), ('grpc.max_send_message_length', -1),
               ('grpc.initial_reconnect_backoff_ms', 100), ('grpc.max_reconnect_backoff_ms', 2000)]
    channel = grpc.insecure_channel(parts.netloc, options) if parts.scheme == 'grpc' else grpc.secure_channel(
        parts.netloc, grpc.ssl_channel_credentials(), options)
    call = channel.unary_unary(_PREDICT)    # without functions for the messages: they are bytes

    def ask(signature: str, inputs: Mapping[str, Any], seconds: float) -> dict[str, np.ndarray]:
        try:
            return read_response(call(predict_request(model, signature, inputs), timeout=seconds))
        except grpc.RpcError as error:
            temporary = error.code() == grpc.StatusCode.UNAVAILABLE
            raise RemoteError(f'{error.code().name.lower()}: {_line(error.details())}{_remedy(temporary)}', temporary
                              ) from None

    return ask


def predict_request(model: str, signature: str, inputs: Mapping[str, Any]) -> bytes:
    """Return a serialized `PredictRequest`.

    Args:
        model: its name.
        signature: its name.
        inputs: by name, an array or a list of bytes.
    """
    spec = field(1, model.encode()) + field(3, signature.encode())
    entries = (field(1, name.encode()) + field(2, _tensor(value)) for name, value in inputs.items())
    return field(1, spec) + b''.join(field(2, entry) for entry in entries)


def read_response(message: bytes) -> dict[str, np.ndarray]:
    """Return the outputs in a serialized `PredictResponse`."""
    entries = [dict(_fields(content)) for number, content in _fields(message) if number == 1]
    return {bytes(entry[1]).decode(): _array(entry[2]) for entry in entries}


def field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer whose content has a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return an integer, seven bits a byte, the lowest first."""
    head = b''
    while value >= 128:
        head += bytes([value & 127 | 128])
        value >>= 7
    return head + bytes([value])


def _tensor(value: Any) -> bytes:
    """Return a serialized `TensorProto` of an array or of a list of bytes."""
    array = np.asarray(value, object if isinstance(value, list) else None)
    strings = array.dtype == object
    kind = _STRING if strings else next(number for number, dtype in _DTYPES.items() if dtype == array.dtype)
    shape = b''.join(field(2, b'\x08' + _varint(side)) for side in array.shape)
    content = b''.join(field(8, each) for each in array.flat) if strings else field(4, array.tobytes())
    return b'\x08' + _varint(kind) + field(2, shape) + content


def _array(message: memoryview) -> np.ndarray:
    """Return the array in a serialized `TensorProto`. Its values are bytes, or one field of a type."""
    kind, shape, values, strings = 0, [], np.zeros(0), []
    for number, content in _fields(message):
        if number == 1:
            kind = content
        elif number == 2:
            shape = [dict(_fields(side)).get(1, 0) for each, side in _fields(content) if each == 2]
        elif number == 4:
            values = np.frombuffer(content, _DTYPES[kind])
        elif number in _FLOATS:
            values = np.frombuffer(content, _FLOATS[number])
        elif number in _INTEGERS:
            values = _integers(content)
        elif number == 8:
            strings.append(bytes(content))
    if kind == _STRING:
        values = np.array([*strings, None], object)[:-1]    # an array of bytes would lose zeros at their ends
    flat: np.ndarray = values.astype(object if kind == _STRING else _DTYPES[kind])
    missing = int(np.prod(shape)) - len(flat)    # equal values at the end may be left out
    fill = flat[-1:] if len(flat) else np.zeros(1, flat.dtype)
    return np.concatenate([flat, np.repeat(fill, missing)]).reshape(shape)


def _integers(content: memoryview) -> np.ndarray:
    """Return packed varints, int64 [n]."""
    octets = np.frombuffer(content, np.uint8)
    first = np.concatenate([[0], np.flatnonzero(octets < 128) + 1])[:-1]    # of each number
    lengths = np.diff(first, append=len(octets))
    place = np.arange(len(octets)) - np.repeat(first, lengths)
    parts = (octets & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, first).view(np.int64) if len(first) else np.zeros(0, np.int64)


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and content of each field: an int, or a memoryview where it has a length or a fixed size."""
    data, place = memoryview(message), 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            octet, place = data[place], place + 1
            value |= (octet & 127) << shift
            shift += 7
            if octet < 128:
                return value

    while place < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}[key & 7] if key & 7 != 2 else varint()
        yield key >> 3, data[place:place + size]
        place += size


# REST

def _rest(parts: urllib.parse.SplitResult, model: str) -> Callable[..., dict[str, np.ndarray]]:
    """Return a function that asks a model over REST: (signature, inputs, seconds) -> outputs."""
    url = f'{parts.scheme}://{parts.netloc}/v1/models/{model}:predict'

    def ask(signature: str, inputs: Mapping[str, Any], seconds: float) -> dict[str, np.ndarray]:
        columns = {name: [{'b64': base64.b64encode(each).decode()} for each in value] if isinstance(value, list)
                   else np.asarray(value).tolist() for name, value in inputs.items()}
        body = json.dumps({'signature_name': signature, 'inputs': columns}).encode()
        outputs = json.loads(_post(url, body, seconds))['outputs']
        if not isinstance(outputs, dict):    # the only output of a signature has no name
            outputs = {'': outputs}
        return {name: _column(name, value) for name, value in outputs.items()}

    return ask


def _post(url: str, body: bytes, seconds: float) -> bytes:
    request = urllib.request.Request(url, body, {'Content-Type': 'application/json'})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(10_000).decode(errors='replace')
        raise RemoteError(f'HTTP status {error.code}: {_line(text)}', error.code in _TEMPORARY) from None
    except (OSError, http.client.HTTPException) as error:
        raise RemoteError(f'{_line(str(getattr(error, "reason", error)))}{_remedy(True)}', True) from None


def _column(name: str, values: list[Any]) -> np.ndarray:
    """Return an output as an array: strings as bytes, numbers with 32 bits, integers of masks with 8."""
    if not name.endswith('_bytes') and not _strings(values):
        array = np.array(values)
        narrow = {'f': np.float32, 'i': np.uint8 if name.startswith('masks') else np.int32}
        return array.astype(narrow.get(array.dtype.kind, array.dtype))
    return _objects(values)


def _strings(values: Any) -> bool:
    while isinstance(values, list) and values:
        values = values[0]
    return isinstance(values, str | dict)


def _objects(values: list[Any]) -> np.ndarray:
    """Return nested lists of strings, or of {'b64': ...}, as an array of bytes."""
    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [read(each) for each in value]
        return base64.b64decode(value['b64']) if isinstance(value, dict) else value.encode()

    return np.array(read(values), object)


def _line(text: str | None) -> str:
    """Return the first 300 characters of a text of the server as one printable line."""
    return ''.join(letter if letter.isprintable() else ' ' for letter in (text or '')[:300])


def _remedy(temporary: bool) -> str:
    return '; is the server running there, and is this its port?' if temporary else ''


_PROTOCOLS = {'grpc': _grpc, 'grpcs': _grpc, 'http': _rest, 'https': _rest}


# Masks

def _mask(value: Any, form: str, box: np.ndarray, size: tuple[int, int], dialect: str) -> np.ndarray:
    """Return a mask of the whole image from the form in which the server sends it."""
    if form == 'rle':
        return _runs(value, *size)
    if form == 'image_png':
        return _pixels(value) > 0
    if form == 'bits':
        side = int(np.sqrt(8 * len(value)))
        return paste(np.unpackbits(value)[:side * side].reshape(side, side), box, *size, dialect)
    if form == 'png':
        value = _pixels(value)
    return paste(value if form == 'float32' else value / np.float32(255), box, *size, dialect)


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int, dialect: str) -> np.ndarray:
    """Return a mask over a box [m, m] in the whole image, bool [H, W].

    Args:
        mask: probabilities.
        box: y1, x1, y2, x2 in px.
        height, width: H and W.
        dialect: 'pixel_center' (Detectron2) or 'detectron' (torchvision), as `Model.describe` says.
    """
    y1, x1, y2, x2 = np.asarray(box, np.float64).tolist()
    place = _pixel_center if dialect == 'pixel_center' else _detectron
    rows, columns = (np.maximum(0, 1 - np.abs(place(low, high, side, len(mask))[:, None] - np.arange(len(mask))))
                     for low, high, side in ((y1, y2, height), (x1, x2, width)))
    return rows.astype(np.float32) @ mask.astype(np.float32) @ columns.astype(np.float32).T >= _THRESHOLD


def _pixel_center(low: float, high: float, side: int, cells: int) -> np.ndarray:
    """Return the place of each pixel among the cells of a mask, whose centres are 0 .. m - 1."""
    if high <= low:
        return np.full(side, -2.)
    return (np.arange(side) + .5 - low) / (high - low) * cells - .5


def _detectron(low: float, high: float, side: int, cells: int) -> np.ndarray:
    """As `_pixel_center`: the mask with a border of a zero cell, resized to a box with integer sides."""
    center, half = (low + high) / 2, (high - low) / 2 * (cells + 2) / cells
    start, stop = int(center - half), int(center + half) + 1
    length = max(stop - start, 1)
    pixels = np.arange(side)
    places = (pixels - start + .5) * (cells + 2) / length - 1.5
    return np.where((pixels >= start) & (pixels < start + length), places, -2.)


def _pixels(content: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)))


def _runs(text: bytes, height: int, width: int) -> np.ndarray:
    """Return a mask from COCO's compressed run-length code: runs down the columns, five bits a character."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(width, height).T


def main(address: str, paths: Iterable[str]) -> None:
    """Print the detections of each image as a line of JSON."""
    model = Model(address)
    for path in paths:
        with open(path, 'rb') as stream:
            answer, = model.detect([stream.read()])
        areas: list[int | None] = [int(mask.sum()) for mask in model.masks(answer)]
        areas = areas or [None] * len(answer['names'])
        found = [{'name': name, 'score': float(score), 'box': box.tolist(), 'area': area} for name, score, box, area
                 in zip(answer['names'], answer['scores'], answer['boxes'], areas, strict=True)]
        print(json.dumps({'image': path, 'status': STATUS[answer['status']], 'detections': found}))


if __name__ == '__main__':
    try:
        main(sys.argv[1], sys.argv[2:])
    except (OSError, IndexError) as error:
        sys.exit(f'light_client: {error}' if len(sys.argv) > 2 else 'light_client.py ADDRESS IMAGE...')
