"""COCO's 80 categories, whose ids have gaps, for weight files without class names."""
from __future__ import annotations

from mrcnn_tf.input.manifest import Category

_IDS_AND_NAMES = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic light, 11
fire hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow,
22 elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase, 34
frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, 41 skateboard, 42
surfboard, 43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl, 52
banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62
chair, 63 couch, 64 potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse, 75 remote,
76 keyboard, 77 cell phone, 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock, 86
vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush
"""
COCO = {int(number): ' '.join(words) for number, *words in map(str.split, _IDS_AND_NAMES.split(','))}


def categories(count: int) -> list[Category]:
    """Return categories for `count` classes.

    80: those of COCO in the order of their ids. 90: one for each id, where the ten that COCO does not use are called
    'unused 12', ... Otherwise: 'class 1', 'class 2', ...
    """
    if count == len(COCO):
        return [Category(label, number, COCO[number]) for label, number in enumerate(sorted(COCO), 1)]
    if count == max(COCO):
        return [Category(label, label, COCO.get(label, f'unused {label}')) for label in range(1, count + 1)]
    return [Category(label, label, f'class {label}') for label in range(1, count + 1)]
