"""Which process of a run this is."""

from distillctl import rank
from distillctl.rank import Rank


def test_one_process_is_alone(monkeypatch):
    for name in rank.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert Rank.here() == Rank(0, 1, 0, 1)
    assert not Rank.is_given()


def test_the_environment_says_which_it_is(monkeypatch):
    for name, value in {**Rank(5, 8, 1, 4).variables(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Rank.here() == Rank(number=5, world=8, local_number=1, local_world=4)
    assert Rank.is_given()


def test_ranks_of_a_machine_share_its_processors(monkeypatch):
    monkeypatch.setattr(rank, "processors", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert rank.own_processors() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert rank.own_processors() == 1
