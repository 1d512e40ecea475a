"""A folder of reference cases: what it holds, whether it is the one intended, how far from it a result may lie.

There are two kinds, torchvision's and Detectron2's. Any folder of the same structure will do; its README states the
conventions. numpy only: cases are listed before any test runs.
"""
from __future__ import annotations

import functools
import importlib.util
import json
import math
import pathlib
from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

# Where a kit measured a difference but recommends no limit: its own limits lie 4 to 20 times above what it measured,
# since another order of additions than its three may well be some times worse.
FACTOR = 10.

# The limits of the first kit's README, for a kit that states none.
DEFAULTS = {
    'input': 2e-6, 'stem': 5e-5, 'body': 5e-4, 'fpn': 5e-4, 'rpn_logits': 1e-3, 'rpn_deltas': 2e-4, 'proposals': 3e-2,
    'objectness': 5e-5, 'pooled': 1e-2, 'fc7': 5e-3, 'cls': 1e-2, 'reg': 5e-3, 'det_boxes': 3e-2, 'det_scores': 5e-4,
    'mask_pooled': 1e-2, 'det_probs': 1e-2, 'stored pooled': 2e-4, 'stored fc7': 2e-4, 'stored cls': 5e-4,
    'stored reg': 2e-4, 'stored mask_pooled': 3e-4, 'stored det_probs': 3e-4, 'first_losses_relative': 5e-5,
    'later_losses_relative': 5e-3, 'grad_norm_relative': 5e-3, 'grad_samples_over_rms': 1e-1,
    'param_samples_over_move': 5e-2, 'ops': 2e-5}


class KitError(ValueError):
    """A kit that nothing can be compared with; one line that names the file and the array."""


class Kit:
    """The cases of one folder.

    Raises:
        KitError: weights.py is missing, or a table of the kit is no JSON.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder.resolve()
        if not (self.folder / 'weights.py').is_file():
            raise KitError(f'{folder}: no parity kit, it lacks weights.py')
        self.manifest: dict[str, Any] = self._table('manifest.json')
        self.tolerances: dict[str, Any] = self._table('tolerances.json')

    def _table(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
        except ValueError as error:
            raise KitError(f'{path}: {error}') from None

    @property
    def framework(self) -> str:
        """'detectron2' where weights.py writes the files of its model zoo, else 'torchvision'."""
        return 'detectron2' if hasattr(self.module, 'save_pickle') else 'torchvision'

    def cases(self, kind: str) -> list[str]:
        """Names of the cases of one kind, 'infer' or 'train'; of the smaller architectures first."""
        names = [path.stem for path in self.folder.glob(f'{kind}_*.npz')]
        return sorted(names, key=lambda name: (len(name.rpartition('_')[0]), name))

    @property
    def has_operators(self) -> bool:
        return (self.folder / 'ops.npz').exists()

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """All arrays of `name`.npz.

        Raises:
            KitError: the file is missing or damaged, or is not what the manifest says.
        """
        path = self.folder / f'{name}.npz'
        try:
            with np.load(path) as stored:
                arrays = dict(stored)
        except Exception as error:
            raise KitError(f'{path}: {error}') from None
        if self.manifest:
            self._check_arrays(path, arrays)
        return arrays

    def _check_arrays(self, path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
        expected = self.manifest.get('files', self.manifest.get('arrays', {})).get(path.name)
        if expected is None:
            raise KitError(f'{path}: not in the manifest; take the kit whole, or leave manifest.json out')
        if odd := sorted(set(expected) ^ set(arrays)):
            raise KitError(f'{path}: {odd[0]} is in the file or in the manifest, but not in both')
        for name, value in arrays.items():
            kind, shape, checksum = expected[name]
            if [value.dtype, list(value.shape), self._checksum(value)] != [np.dtype(kind), shape, checksum]:
                raise KitError(f'{path}: {name} is not what the manifest says')

    def _checksum(self, value: np.ndarray) -> int:
        if value.dtype.kind == 'U' and self.framework == 'detectron2':               # of the text, not of its storage
            value = np.frombuffer('\n'.join(value.ravel().tolist()).encode(), np.uint8)
        return self.module.checksum(value)

    @functools.cached_property
    def module(self) -> ModuleType:
        """weights.py of the folder."""
        spec = importlib.util.spec_from_file_location('kit_weights', self.folder / 'weights.py')
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, 'unit'):    # a kit may draw its weights otherwise
            module.unit = functools.partial(_unit_in_parts, module.unit)
        return module

    def state_dict(self, arch: str, scale: dict[str, float] | None = None) -> dict[str, np.ndarray]:
        """Weights by the reference's names. Do not write into them: the last ones drawn are kept.

        Raises:
            KitError: an architecture without a spec; other weights than the manifest says.
        """
        return _state_dict(self, arch, json.dumps(scale or {}, sort_keys=True))

    def check_weights(self, arch: str, state: dict[str, np.ndarray]) -> None:
        """Raises KitError where the weights, unscaled, are not those that the manifest says."""
        expected = self.manifest.get('weights', {}).get(arch)
        if expected is None:
            return
        if odd := sorted(set(expected) ^ set(state)):
            raise KitError(f'{self.folder}: {arch}: {odd[0]} is drawn or in the manifest, but not both')
        for name, value in state.items():
            if self.module.checksum(value) != expected[name]:
                raise KitError(f'{self.folder}: {arch}: {name} has other values than intended')

    def limit(self, key: str, case: str) -> float:
        """The largest difference allowed of what tolerances.json calls `key`.

        What the kit recommends; else FACTOR times what its own float32 runs of this case, or of all, differed by; else
        the default.
        """
        summary = self.tolerances.get('summary', {}).get(key, {})
        if 'recommended' in summary:
            return float(summary['recommended'])
        measured = self._measured(key, case) or summary.get('measured')
        return FACTOR * float(measured) if measured else DEFAULTS[key]

    def _measured(self, key: str, case: str) -> float:
        """Largest difference of the float32 runs of one case; 0 where there is none."""
        entry = self.tolerances.get('cases', self.tolerances).get(case, {})
        if self.framework == 'detectron2':
            gradients = {'grad_norm_relative': entry.get('grad_noise_relative', 0.)}
            return {**gradients, **entry.get('noise', {}), **entry.get('loss_noise', {})}.get(key, 0.)
        if key.startswith('stored '):
            return entry.get('forced', {}).get(key.removeprefix('stored '), 0.)
        runs = [run.get('worst', run) for run in entry.get('float32', {}).values() if isinstance(run, dict)]
        return max((run.get(key, 0.) for run in runs), default=0.)


def _unit_in_parts(unit: Callable[[str, list[int]], np.ndarray], key: str, shape: list[int]) -> np.ndarray:
    """Return what `unit` of weights.py does, but draw 4 million numbers at a time: 2 GB less for a DC5's box head."""
    count, part = math.prod(shape), 2 ** 22
    with mock.patch.object(np.random, 'PCG64', functools.cache(np.random.PCG64)):    # one stream, which goes on
        return np.concatenate([unit(key, [min(part, count - first)]) for first in range(0, count, part)]).reshape(shape)


@functools.lru_cache(maxsize=2)
def _state_dict(kit: Kit, arch: str, scale: str) -> dict[str, np.ndarray]:
    try:
        state = kit.module.state_dict(arch)
    except OSError as error:
        raise KitError(f'{kit.folder}: {arch}: {error}') from None
    kit.check_weights(arch, state)
    factors = json.loads(scale)
    if unknown := set(factors) - {name.rpartition('.')[0] for name in state}:
        raise KitError(f'{kit.folder}: {arch}: scale names {min(unknown)}, which is no layer')
    return {name: value * np.float32(factors.get(name.rpartition('.')[0], 1)) if factors else value
            for name, value in state.items()}
