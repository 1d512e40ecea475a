"""Files and text that come from outside: reading, atomic writing, text for one line, other projects' pickles."""
from mrcnn_tf.files.reading import LARGEST, OutsideError, inside, open_regular, read_bytes, read_json, read_text
from mrcnn_tf.files.writing import atomic_path, new_directory, remove, sync, write_json

__all__ = ['LARGEST', 'OutsideError', 'atomic_path', 'inside', 'new_directory', 'open_regular', 'read_bytes',
           'read_json', 'read_text', 'remove', 'sync', 'write_json']
