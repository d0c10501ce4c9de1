"""A Bungie API of a few prepared answers, for what the simulator never says."""

from collections.abc import Mapping
from typing import cast

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.bungie.codes import class_of
from raidhub_dagster.bungie.protocol import Endpoints
from tests.support.reports import Json, encode

ENDPOINTS = Endpoints("http://www", "http://stats")


class Refusal:
    """An answer with this code."""

    def __init__(self, code: int, **data: str) -> None:
        self.code = code
        self.data = data


class FakeApi:
    """Answers by address and remembers what was asked; raises an exception; 1601 for all else."""

    def __init__(self, answers: Mapping[str, Json]) -> None:
        self.endpoints = ENDPOINTS
        self.asked: list[str] = []
        self._answers = answers

    def get(self, url: str) -> bytes:
        self.asked.append(url)
        answer = self._answers.get(url, Refusal(1601))
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Refusal):
            raise RefusedError(
                f"code {answer.code}",
                code=answer.code,
                code_class=class_of(answer.code),
                data=answer.data,
                facts={},
            )
        return encode(answer)

    @property
    def client(self) -> BungieClient:
        """For whoever asks for the real one: `get` and `endpoints` are all they use."""
        return cast("BungieClient", self)
