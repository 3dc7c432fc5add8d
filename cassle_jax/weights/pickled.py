"""A pickle machine that builds plain data and runs nothing.

Python's own unpickler imports and calls whatever a file names, and lets a file
of a few bytes ask for gigabytes of memo. Torch checkpoints need little of it:
this machine knows dicts, lists, tuples, texts and numbers, and the functions
that it is given. Any other class or function is an `Inert`: it takes arguments,
items and state, and does nothing; its name is reported.

Source of the operations: `pickletools`, Python's description of the protocols.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cassle_jax.weights.tensor import Damaged

# More operations than any checkpoint has; ResNet-50 with its optimiser: 50,000.
MOST_OPERATIONS = 2_000_000
_PLAIN = (str, bytes, int, float, bool, type(None))


class Global(NamedTuple):
  """A class or function that a file names; it is never imported."""

  name: str


class Inert:
  """What stands for an object of a class that is not known."""

  __slots__ = ()


INERT = Inert()
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MADE = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_SKIPPED = ("PROTO", "FRAME")
_INERT_OPERATIONS = ("EMPTY_SET", "EXT1", "EXT2", "EXT4")
# What takes a number or a text and is no value by itself.
_OTHERS = (
  *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT"),
  *("EXT1", "EXT2", "EXT4", "GLOBAL", "INST", "PROTO", "FRAME", "PERSID"),
)
# Numbers, texts and bytes.
_CONSTANTS = {
  code.name
  for code in pickletools.opcodes
  if code.arg is not None and code.name not in _OTHERS
}


class Machine:
  """Runs one pickle; `foreign` collects the names that it does not know."""

  def __init__(
    self,
    known: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any],
    foreign: set[str],
  ):
    """Takes what the file may call.

    Args:
      known: "module.name" -> what is called in its place.
      persistent: persistent id -> object.
      foreign: gets the names of all other classes and functions.
    """
    self._known, self._persistent = known, persistent
    self._foreign = foreign

  def load(self, stream: Any) -> Any:
    """Reads one pickle from a stream, and leaves it behind its end.

    Args:
      stream: has read, readline and tell, and reads no more than it has, as
        io.BytesIO and mmap do: lengths in the file are not trusted.

    Raises:
      Damaged: operations that make no sense, or too many of them.
      Exception: of many other types, for bytes that are no pickle.
    """
    self._stack: list[Any] = []
    self._marks: list[int] = []
    self._memo: dict[int, Any] = {}
    for count, (code, argument, _) in enumerate(pickletools.genops(stream)):
      if count >= MOST_OPERATIONS:
        raise Damaged(f"its pickle has over {MOST_OPERATIONS:,} operations")
      if code.name == "STOP":
        return self._pop()
      self._step(code.name, argument)
    raise Damaged("its pickle has no end")

  def _step(self, code: str, argument: Any) -> None:
    push = self._stack.append
    if code in _CONSTANTS:
      push(argument)
    elif code in _VALUES:
      push(_VALUES[code])
    elif code in _MADE:
      push(_MADE[code]())
    elif code in _INERT_OPERATIONS:
      push(INERT)
    elif code in ("BINPUT", "PUT", "LONG_BINPUT"):
      self._memo[argument] = self._top()
    elif code == "MEMOIZE":
      self._memo[len(self._memo)] = self._top()
    elif code in ("BINGET", "GET", "LONG_BINGET"):
      push(self._memo[argument])
    elif code == "MARK":
      self._marks.append(len(self._stack))
    elif code not in _SKIPPED:
      method = getattr(self, f"_{code.lower()}", None)
      if method is None:
        raise Damaged(f"its pickle has the operation {code}")
      method() if argument is None else method(argument)

  def _top(self) -> Any:
    if len(self._stack) <= (self._marks[-1] if self._marks else 0):
      raise Damaged("its pickle takes what it has not put")
    return self._stack[-1]

  def _pop(self) -> Any:
    self._top()
    return self._stack.pop()

  def _popped(self) -> list[Any]:
    """What was put since the last mark."""
    if not self._marks:
      raise Damaged("its pickle has no mark where one is needed")
    mark = self._marks.pop()
    items = self._stack[mark:]
    del self._stack[mark:]
    return items

  # Operations, by their names in pickletools.

  def _pop_mark(self) -> None:
    self._popped()

  def _dup(self) -> None:
    self._stack.append(self._top())

  def _tuple(self) -> None:
    self._stack.append(tuple(self._popped()))

  def _tuple1(self) -> None:
    self._stack.append((self._pop(),))

  def _tuple2(self) -> None:
    second = self._pop()
    self._stack.append((self._pop(), second))

  def _tuple3(self) -> None:
    third, second = self._pop(), self._pop()
    self._stack.append((self._pop(), second, third))

  def _list(self) -> None:
    self._stack.append(self._popped())

  def _dict(self) -> None:
    made = {}
    put(made, self._popped())
    self._stack.append(made)

  def _frozenset(self) -> None:
    self._popped()
    self._stack.append(INERT)

  def _append(self) -> None:
    _extend(self._pop(), self._top)

  def _appends(self) -> None:
    items = self._popped()
    if isinstance(self._top(), list):
      self._top().extend(items)

  def _additems(self) -> None:
    self._popped()

  def _setitem(self) -> None:
    value, key = self._pop(), self._pop()
    put(self._top(), [key, value])

  def _setitems(self) -> None:
    items = self._popped()
    put(self._top(), items)

  def _build(self) -> None:
    self._pop()  # Attributes: nothing that is made here has any.
    self._top()

  def _global(self, argument: str) -> None:
    self._named(*argument.split(" ", 1))

  def _stack_global(self) -> None:
    name, module = self._pop(), self._pop()
    self._named(module, name)

  def _named(self, module: Any, name: Any) -> None:
    if not isinstance(module, str) or not isinstance(name, str):
      raise Damaged("its pickle names a class by something that is no text")
    self._stack.append(Global(f"{module}.{name}"))
    if self._stack[-1].name not in self._known:
      self._foreign.add(self._stack[-1].name[:100])

  def _reduce(self) -> None:
    arguments, function = self._pop(), self._pop()
    known = isinstance(function, Global) and self._known.get(function.name)
    if not known or not isinstance(arguments, tuple):
      self._stack.append(INERT)
      return
    self._stack.append(known(*arguments))

  _newobj = _reduce

  def _newobj_ex(self) -> None:
    self._pop()
    self._reduce()

  def _inst(self, argument: str) -> None:
    self._popped()
    self._global(argument)
    self._stack[-1] = INERT

  def _obj(self) -> None:
    self._popped()
    self._stack.append(INERT)

  def _persid(self, argument: str) -> None:
    self._stack.append(self._persistent(argument))

  def _binpersid(self) -> None:
    self._stack.append(self._persistent(self._pop()))


def _extend(item: Any, top: Callable[[], Any]) -> None:
  if isinstance(top(), list):
    top().append(item)


def put(target: Any, items: list[Any]) -> None:
  """Puts key, value, key, value, ... into a dict; others forget them."""
  if len(items) % 2:
    raise Damaged("its pickle has a key without a value")
  if isinstance(target, dict):
    for key, value in zip(items[::2], items[1::2], strict=True):
      # The hash of deeply nested tuples would end the process.
      if isinstance(key, _PLAIN):
        target[key] = value
