"""A run goes on with the pictures that it began with, wherever they lie."""

import pytest

from cassle_jax.errors import UserError
from cassle_jax.training import pictures


def found(count, mark="a"):
  return {pictures._NUMBER: count, pictures._CONTENT: mark}


MOVED = ['data.source is "folder:/b" (the run\'s: "folder:/a")']


def check(saved, now, moved=(), allow=False):
  pictures.check(saved, now, step=7, moved=moved, allow_change=allow)


def test_the_same_pictures_elsewhere_are_the_same(capfd):
  check(found(5), found(5), MOVED)
  assert not capfd.readouterr().err


@pytest.mark.parametrize(
  "saved, now, moved, words",
  [
    (found(64), found(66), (), "66 images, and 64 before. Give"),
    (found(64), found(64, "b"), (), "names, sizes and order are not what"),
    (found(64), found(64, "b"), MOVED, r"were \(data.source is .*/a"),
    # A checkpoint of an earlier version: names are all there is.
    (None, found(64), MOVED, "this run: data.source is"),
  ],
)
def test_other_pictures_are_refused_or_told(saved, now, moved, words, capfd):
  with pytest.raises(UserError, match=words) as error:
    check(saved, now, moved)
  assert "--config.data.allow_change=True" in str(error.value)
  check(saved, now, moved, allow=True)
  assert "going on with other data" in capfd.readouterr().err


def test_an_old_checkpoint_under_the_same_name_goes_on():
  check(None, found(64))
