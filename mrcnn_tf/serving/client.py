"""A predictor whose model is on a server: TensorFlow Serving, or `mrcnn serve`."""
from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn_tf.input import decoding
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving import light_client, sources
from mrcnn_tf.serving.predictor import Found, Predictor, exported_instances
from mrcnn_tf.serving.signatures import DETECT
from mrcnn_tf.serving.sources import Encoded, InferenceError


class ServedModel(Predictor):
    """The `Predictor` of an exported model on a server.

    Images that the model would refuse by their header, and files beyond the limit of a request, are not sent. Masks
    are pasted here.

    Args:
        address: 'grpc://HOST:PORT/NAME' or 'http://HOST:PORT/NAME'; 'grpcs' and 'https' are encrypted.
        timeout: seconds for an image, with all tries.
        retries: how often an image is sent again if the server cannot be reached or is busy.
        concurrency: images of a list that are sent at once.

    Raises:
        RemoteError: the server cannot be reached, or has no such model.
        InferenceError: the model is one of an older export.
    """

    def __init__(self, address: str, timeout: float = 60., retries: int = 5, concurrency: int = 4) -> None:
        self._model = light_client.Model(address, timeout, retries)
        described = self._model.describe()
        try:
            self.categories = [Category(**each) for each in described['categories']]
            self.paste, self._masks = described['paste'], described['masks']
            self.rule = decoding.Rule(described['exif'], described['max_pixels'])
        except (LookupError, TypeError) as error:
            raise InferenceError(f'{address}: the model describes itself otherwise ({error!r}); export it again'
                                 ) from None
        self.batch_size = self.concurrency = concurrency
        self._pool = concurrent.futures.ThreadPoolExecutor(concurrency)

    def detect(self, encoded: Sequence[Encoded]) -> list[Found]:
        return list(self._pool.map(self._detect, encoded))

    def _detect(self, encoded: Encoded) -> Found:
        sources.refuse(encoded, self.rule)
        if len(encoded.content) > light_client.MAX_BYTES:
            raise InferenceError(f'{encoded.name}: has {len(encoded.content)} bytes; a request may have '
                                 f'{light_client.MAX_BYTES}, so save the image with less quality')
        outputs = self._model.predict(DETECT, {'image_bytes': [encoded.content]})
        columns: dict[str, Any] = {name: value[0] for name, value in outputs.items()}
        if columns['status'] != decoding.OK:
            raise InferenceError(f'{encoded.name}: the server cannot use it: '
                                 f'{light_client.STATUS.get(int(columns["status"]), "unknown status")}; save the image '
                                 'anew')
        height, width = np.asarray(columns['sizes']).tolist()
        return exported_instances(columns, self._masks), (height, width)
