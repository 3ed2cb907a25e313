"""The consumer group protocol on the wire: ConsumerGroupHeartbeat (68), ConsumerGroupDescribe (69) (KIP-848).

Puts each request to the group coordinator and gives refusals their form, with the reason in words. What a heartbeat
may say is checked by the machine, in :mod:`logd.coordinators.modern_fencing`.
"""

from __future__ import annotations

from collections.abc import Awaitable

from logd.apis.groups import GROUP_OPERATIONS, client_host
from logd.apis.registry import Call, api
from logd.apis.turns import breathe
from logd.coordinators.front import Waiter
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.consumer_group_describe import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
)
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse


def _not_heard(
    request: ConsumerGroupHeartbeatRequest, version: int, refused: Refused
) -> ConsumerGroupHeartbeatResponse:
    return ConsumerGroupHeartbeatResponse(error_code=int(refused.code), error_message=refused.message)


@api(68, refuse=_not_heard)
def consumer_group_heartbeat(
    call: Call, request: ConsumerGroupHeartbeatRequest
) -> ConsumerGroupHeartbeatResponse | Awaitable[ConsumerGroupHeartbeatResponse]:
    """Versions 0-1. From 1 on the member makes its own id, and may subscribe by a regular expression."""
    try:
        waiter = call.services.groups.ask(request.group_id, request, call.version, call.client_id, client_host(call))
    except Refused:
        from logd.coordinators.modern_fencing import check_request  # what is wrong with it is so at every coordinator

        check_request(request, call.version, call.services.settings.group_consumer_assignors)
        raise
    return _heard_later(waiter) if waiter.message is None else _heard(waiter.result())


async def _heard_later(waiter: Waiter) -> ConsumerGroupHeartbeatResponse:
    return _heard(await waiter.wait())


def _heard(answer: object) -> ConsumerGroupHeartbeatResponse:
    assert isinstance(answer, ConsumerGroupHeartbeatResponse)
    return answer


@api(69)
async def consumer_group_describe(call: Call, request: ConsumerGroupDescribeRequest) -> ConsumerGroupDescribeResponse:
    """Versions 0-1, in the order of the request."""
    answer = ConsumerGroupDescribeResponse()
    for number, group_id in enumerate(request.group_ids):
        await breathe(number)
        try:
            answer.groups += await _described(call, group_id)
        except Refused as refused:
            answer.groups.append(DescribedGroup(int(refused.code), refused.message, group_id))
    if request.include_authorized_operations:
        for group in answer.groups:
            if group.error_code == 0:
                group.authorized_operations = GROUP_OPERATIONS
    return answer


async def _described(call: Call, group_id: str) -> list[DescribedGroup]:
    if not group_id:
        raise Refused(ErrorCode.INVALID_GROUP_ID, "group.id is empty: name a group")
    waiter = call.services.groups.ask(group_id, ConsumerGroupDescribeRequest([group_id]), call.version)
    part = await waiter.wait()
    assert isinstance(part, ConsumerGroupDescribeResponse)
    return part.groups
