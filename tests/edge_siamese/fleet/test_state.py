"""Merging and resolving registers."""

from __future__ import annotations

import random
from itertools import permutations
from typing import cast

from msgspec.structs import replace

from edge_siamese.fleet.state import (
    Life,
    LifeValue,
    Name,
    ObjectState,
    Place,
    Resolved,
    ViewKind,
    ViewState,
    resolve,
)
from edge_siamese.store.names import name_key

CREATED = "2026-11-24T10:00:00.000+00:00"
OBJECTS = [f"{number:032x}" for number in range(6)]
VIEWS = [f"{number:032x}" for number in range(100, 112)]


def stamp(number: int, device: str = "a") -> str:
    return f"{1_790_000_000_000 + number:013x}-0000-{device}"


def an_object(name: str = "mug", named: int = 1, life: LifeValue = "alive", lived: int = 1) -> ObjectState:
    return ObjectState(CREATED, Name(stamp(named), name), Life(stamp(lived), life))


def a_view(owner: str, placed: int = 1, alive: bool = True, kind: ViewKind = "view") -> ViewState:
    return ViewState(kind, CREATED, "camera", Place(stamp(placed), owner, alive))


def any_object(chance: random.Random) -> ObjectState:
    """One of few, so that equal stamps with other values are among them."""
    name = Name(stamp(chance.randrange(4)), chance.choice(["mug", "pen"]))
    life = Life(stamp(chance.randrange(4)), cast(LifeValue, chance.choice(["alive", "forgotten"])))
    return ObjectState(chance.choice([CREATED, "2025"]), name, life)


def any_view(chance: random.Random) -> ViewState:
    place = Place(stamp(chance.randrange(4)), chance.choice(OBJECTS), chance.random() < 0.6)
    return ViewState(
        cast(ViewKind, chance.choice(["view", "view", "negative"])), CREATED, chance.choice("ab"), place
    )


def test_merging_is_commutative_associative_and_idempotent() -> None:
    chance = random.Random(2)
    for make in (any_object, any_view):
        for _ in range(3000):
            a, b, c = (make(chance) for _ in range(3))
            assert a.merged(b) == b.merged(a)
            assert a.merged(b).merged(c) == a.merged(b.merged(c))
            assert a.merged(a) == a
            assert a.merged(b).merged(b) == a.merged(b)


def test_the_later_value_of_each_register_wins() -> None:
    renamed, forgotten = an_object("cup", named=5), an_object("mug", life="forgotten", lived=4)
    both = an_object("cup", named=5, life="forgotten", lived=4)
    assert renamed.merged(forgotten) == both
    assert both.merged(an_object("old", named=2, lived=3)) == both


class Replica:
    """What one device knows, and the messages that it has not read yet."""

    def __init__(self) -> None:
        self.objects: dict[str, ObjectState] = {}
        self.views: dict[str, ViewState] = {}

    def take(self, uid: str, state: ObjectState | ViewState) -> None:
        if isinstance(state, ObjectState):
            self.objects[uid] = self.objects[uid].merged(state) if uid in self.objects else state
        else:
            self.views[uid] = self.views[uid].merged(state) if uid in self.views else state

    def resolved(self) -> Resolved:
        return resolve(self.objects, self.views)


def test_replicas_converge_after_500_changes_in_any_order() -> None:
    """Each change is delivered at last, some twice, in orders of their own, each replica changing what it knows."""
    chance = random.Random(3)
    replicas = [Replica() for _ in range(4)]
    told: list[tuple[str, ObjectState | ViewState]] = []
    for number in range(500):
        here = chance.choice(replicas)
        now = stamp(number + chance.randrange(-20, 20), device=f"d{replicas.index(here)}")
        state: ObjectState | ViewState
        if chance.random() < 0.5:
            uid = chance.choice(OBJECTS)
            state = here.objects.get(uid) or an_object()
            if chance.random() < 0.5:
                state = replace(state, name=Name(now, chance.choice(["mug", "Mug", "pen"])))
            else:
                life = cast(LifeValue, chance.choice(["alive", "alive", "forgotten"]))
                state = replace(state, life=Life(now, life))
        else:
            uid = chance.choice(VIEWS)
            state = here.views.get(uid) or a_view(OBJECTS[0])
            state = replace(state, place=Place(now, chance.choice(OBJECTS), chance.random() < 0.7))
        here.take(uid, state)
        told.append((uid, state))
        if chance.random() < 0.3:  # some messages arrive meanwhile, some of them twice, some never
            chance.choice(replicas).take(*chance.choice(told))
    for replica in replicas:
        chance.shuffle(told)
        for uid, state in told:
            replica.take(uid, state)
    first, *others = replicas
    for replica in others:
        assert (replica.objects, replica.views) == (first.objects, first.views)
        assert replica.resolved() == first.resolved()
    shown = first.resolved()
    assert 2 <= len(shown.objects) <= 6
    assert len({name_key(name) for name in shown.objects.values()}) == len(shown.objects)
    assert set(shown.views.values()) <= set(shown.objects)


def test_an_object_exists_while_it_is_alive_and_has_a_view() -> None:
    a, b, c = OBJECTS[:3]
    objects = {a: an_object("mug"), b: an_object("pen"), c: an_object("key", life="forgotten")}
    views = {
        VIEWS[0]: a_view(a),
        VIEWS[1]: a_view(a, kind="negative"),
        VIEWS[2]: a_view(b, alive=False),
        VIEWS[3]: a_view(b, kind="negative"),
        VIEWS[4]: a_view(c),
        VIEWS[5]: a_view(OBJECTS[5]),
    }
    assert resolve(objects, views) == Resolved({a: "mug"}, {VIEWS[0]: a, VIEWS[1]: a})


def test_mutual_merges_lose_nothing() -> None:
    a, b = OBJECTS[:2]
    objects = {a: an_object("mug"), b: an_object("cup", named=2)}
    views = {VIEWS[0]: a_view(b, placed=5), VIEWS[1]: a_view(a, placed=6)}
    assert resolve(objects, views) == Resolved({a: "mug", b: "cup"}, {VIEWS[0]: b, VIEWS[1]: a})


def test_the_earliest_object_keeps_the_name() -> None:
    wanted = {
        OBJECTS[0]: an_object("Mug", named=3),
        OBJECTS[1]: an_object("mug", named=1),
        OBJECTS[2]: an_object("mug (2)", named=9),
        OBJECTS[3]: an_object("MUG", named=2),
    }
    views = {view: a_view(owner) for view, owner in zip(VIEWS, wanted, strict=False)}
    for order in permutations(wanted):
        found = resolve({uid: wanted[uid] for uid in order}, views).objects
        assert found == {
            OBJECTS[0]: "Mug (4)",
            OBJECTS[1]: "mug",
            OBJECTS[2]: "mug (2)",
            OBJECTS[3]: "MUG (3)",
        }
