from __future__ import annotations

from types import SimpleNamespace

import pytest

from deployments.client_xargs import check_xargs
from deployments.engine.eligibility import PROBE, SWITCH
from deployments.engine.said import SAID
from deployments.engine.traffic import OPT_OUT
from deployments.resumption import RESUME
from deployments.seated_requests import CLASS_XARG
from deployments.tracing.traceparent import TRACE_XARG


@pytest.mark.parametrize("name", [SAID, RESUME, PROBE, CLASS_XARG, TRACE_XARG, "dspark_new"])
def test_what_engines_take_for_the_clusters_word_no_client_may_say(name):
    with pytest.raises(ValueError, match=name):
        check_xargs(SimpleNamespace(vllm_xargs={name: [999999999], "others": 1}))


@pytest.mark.parametrize("given", [None, {}, {"others": 1, SWITCH: "off", OPT_OUT: "off"}])
def test_the_rest_passes(given):
    check_xargs(SimpleNamespace(vllm_xargs=given))
    check_xargs(SimpleNamespace())
