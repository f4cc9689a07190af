"""Ray without processes: its calls wait until a test answers them."""

from dataclasses import dataclass
from typing import Any

from ray import exceptions


@dataclass(eq=False)
class Call:
    """A call of an actor or a task.

    Attributes:
        actor: its number, or that of the task.
        name: of the method.
        words: of the call.
        is_over: whether it has an answer.
        value: the answer, or the error.
    """

    actor: int
    name: str
    words: tuple[Any, ...]
    is_over: bool = False
    value: Any = None

    def answer(self, value):
        self.is_over, self.value = True, value

    fail = answer


class FakeRay:
    """What the engines use of the module.

    Attributes:
        calls: every one.
        options: of the actors or tasks.
        waits: calls, num_returns and timeout of each look.
        put_objects: in the object store.
        cancelled: calls, with the options.
    """

    exceptions = exceptions

    def __init__(self):
        self.calls, self.waits, self.put_objects, self.cancelled = [], [], [], []
        self.options: dict[str, Any] = {}
        self._count = 0

    def open(self, name):
        """Calls of a method that have no answer."""
        return [call for call in self.calls if call.name == name and not call.is_over]

    def put(self, value):
        self.put_objects.append(value)
        return f"the {value}"

    def remote(self, *made, **options):
        self.options |= options
        return _Maker(self) if made else lambda task: _Method(self, None, task.__name__)

    def wait(self, calls, *, num_returns, timeout):
        self.waits.append((len(calls), num_returns, timeout))
        assert len({*calls}) == len(calls) >= num_returns > 0
        done = [call for call in calls if call.is_over][:num_returns]
        return done, [call for call in calls if call not in done]

    def get(self, call):
        assert call.is_over
        if isinstance(call.value, exceptions.RayError):
            raise call.value
        return call.value

    def cancel(self, call, **options):
        self.cancelled.append((call, options))


class _Method:
    """Of an actor, or a task where there is none."""

    def __init__(self, ray, actor, name):
        self._ray, self._actor, self._name = ray, actor, name

    def remote(self, *words):
        number = len(self._ray.calls) if self._actor is None else self._actor
        self._ray.calls.append(Call(number, self._name, words))
        return self._ray.calls[-1]


class _Maker:
    """Makes actors."""

    def __init__(self, ray):
        self._ray = ray

    def options(self, **options):
        self._ray.options |= options
        return self

    def remote(self):
        number, self._ray._count = self._ray._count, self._ray._count + 1
        names = ("hello", "extract", "report", "stop")
        return type("Actor", (), {name: _Method(self._ray, number, name) for name in names})()
