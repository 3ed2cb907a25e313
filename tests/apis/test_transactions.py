"""What the APIs of transactions say where there are none yet."""

from __future__ import annotations

import pytest

from logd.errors import ErrorCode
from logd.wire.schemas.list_transactions import ListTransactionsRequest
from tests.apis.groups_house import house


@pytest.mark.trio
async def test_filters_are_checked_before_there_is_a_transaction() -> None:
    """A listing of nothing names the states that are none, and refuses a pattern that is none, as any other does."""
    async with house() as home:
        answer = await home.ask(66, 2, ListTransactionsRequest(["Ongoing", "Nonsense"]))
        assert (answer.error_code, answer.unknown_state_filters) == (0, ["Nonsense"])
        answer = await home.ask(66, 2, ListTransactionsRequest(transactional_id_pattern="("))
        assert answer.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
