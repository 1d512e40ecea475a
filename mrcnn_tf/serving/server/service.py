"""What gRPC, REST and the page of the development server share: a model, its queue and its metrics."""
from __future__ import annotations

import dataclasses
import pathlib
import threading
from collections.abc import Sequence

from mrcnn_tf.serving.server.batching import Queue, Request
from mrcnn_tf.serving.server.metrics import Metrics
from mrcnn_tf.serving.server.versions import Arrays, RequestError, Version, Versions

_MIB = 2 ** 20
_PARALLEL = 2    # requests that are computed at once without batches; each uses several cores


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How a model is served.

    Attributes:
        name: of the model in requests; '': that of its directory.
        host: address to listen on.
        port: of gRPC; 0: a free one.
        rest_port: of REST, the page and the metrics; 0: a free one.
        batching: send images of several requests through the model together.
        warmup: run the recorded requests of the export before the first client.
        max_mib: size of a request.
        max_images: of a request, and of a batch.
        poll: seconds between two looks for a new version.
    """
    name: str = ''
    host: str = '127.0.0.1'
    port: int = 8500
    rest_port: int = 8501
    batching: bool = False
    warmup: bool = True
    max_mib: int = 64
    max_images: int = 64
    poll: float = 2.

    @property
    def max_bytes(self) -> int:
        """Size of a request in bytes."""
        return self.max_mib * _MIB


class Service:
    """A model that answers requests.

    Args:
        directory: of the versions of the model.
        options: see `ServerOptions`.

    Attributes:
        name: of the model in requests.
        options: as given.
        versions: of the model.
        metrics: of the server.
        stopping: is set when the server stops.

    Raises:
        ServeError: as `Versions`.
    """

    def __init__(self, directory: pathlib.Path, options: ServerOptions) -> None:
        self.name, self.options = options.name or directory.resolve().name, options
        self.metrics, self.stopping = Metrics(), threading.Event()
        self.versions = Versions(directory, options.warmup)
        self.metrics.version.set(self.versions.get().number)
        self._queue = Queue(options.max_images if options.batching else 1, 1 if options.batching else _PARALLEL,
                            observe=self.metrics.batch_images.observe)
        threading.Thread(target=self._watch, daemon=True).start()

    def version(self, name: str, number: int | None = None) -> Version:
        """Return the served version of a model.

        Raises:
            RequestError: there is no such model or version.
        """
        self.check_name(name)
        return self.versions.get(number)

    def check_name(self, name: str) -> None:
        """Raise RequestError if the model has another name."""
        if name != self.name:
            raise RequestError('NOT_FOUND', f'Servable not found for request: Latest({name[:100]}); this server has '
                                            f'{self.name}')

    def predict(self, protocol: str, version: Version, signature: str, inputs: Arrays,
                wanted: Sequence[str] = ()) -> Arrays:
        """Return the outputs of a signature.

        Args:
            protocol: for the metrics.
            version: of the model.
            signature: its name.
            inputs: by name.
            wanted: names of outputs; none: all.

        Raises:
            RequestError: the inputs do not fit the signature, or too many requests wait.
        """
        with self.metrics.request(protocol, signature if signature in version.signatures else ''):
            count = version.check(signature, inputs)
            if count > self.options.max_images:
                raise RequestError('INVALID_ARGUMENT', f'{count} images; send at most {self.options.max_images} in a '
                                                       'request')
            outputs = self._queue.run(Request(version, signature, inputs, count))
            if 'status' in outputs:
                self.metrics.statuses(outputs['status'])
            missing = sorted(set(wanted) - set(outputs))
            if missing:
                raise RequestError('INVALID_ARGUMENT', f'output_filter: {signature} has no output {missing[0][:100]}')
        return {name: value for name, value in outputs.items() if not wanted or name in wanted}

    def _watch(self) -> None:
        while not self.stopping.wait(self.options.poll):
            self.versions.reload()
            self.metrics.version.set(self.versions.get().number)
