"""A long run over a large folder: memory stays flat, threads end."""

import os
import threading

import jax
import jpeg_corpus
import numpy as np
import pytest

from cassle_jax import data


def _resident_bytes():
  with open("/proc/self/statm", encoding="ascii") as file:
    return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc")
def test_ten_epochs_of_20000_pictures_leave_memory_flat(tmp_path):
  contents = [
    jpeg_corpus.encode(jpeg_corpus.picture(40 + place, 64, place))
    for place in range(50)
  ]
  for place in range(20_000):
    path = tmp_path / f"{place % 10}" / f"{place:05}.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(contents[place % 50])
  threads = set(threading.enumerate())
  built = data.build(
    source=f"folder:{tmp_path}",
    image_size=40,
    batch_size=250,
    resident_bytes=0,
  )
  assert built.canvas_size == 96 and built.steps_per_epoch == 80

  def put(batch):
    return jax.device_put(jax.tree.map(np.copy, batch))

  batches = built.device_batches(0, put)
  used, shown = [], np.zeros(20_000, int)
  for _ in range(10):
    for _ in range(80):
      _, index = next(batches)
      shown[index] += 1
    used.append(_resident_bytes())
  built.close()
  assert (shown == 10).all()
  # Two batches of canvases are 14 MB; nothing grows with epochs.
  assert max(used[2:]) - used[1] < 14e6, used
  for thread in set(threading.enumerate()) - threads:
    thread.join(5)
    assert not thread.is_alive()
