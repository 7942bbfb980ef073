"""vLLM's V1 model runner with a draft source in it.

The hooks, each an override of a method vLLM calls: which layers' outputs are features,
which requests came and went, and what to verify next. All that is decided lives in
`deployments.engine.adapter`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import vllm.v1.sample.rejection_sampler as rejection_sampler
import zmq
from vllm.distributed.parallel_state import get_tp_group

from autoscale.calibration_messages import calibrations_from_plain
from autoscale.controls import Controls
from autoscale.draft_experience import NO_EXPERIENCE, DraftExperience
from autoscale.fleet_step_cost import StepCostReport
from autoscale.policies import Off, Policy
from autoscale.policy_settings import make_policy
from autoscale.step_cost import StepCostTable
from deployments.engine.adapter import SpeculationAdapter
from deployments.engine.canary_arm import CanaryArm, CanaryOrder
from deployments.engine.eligibility import terms_of
from deployments.engine.engine_step import EngineStep
from deployments.engine.patches import install_logits_processors, use_sparse_sampler
from deployments.engine.placeholders import padded_requests, strip_bitmask, strip_placeholders
from deployments.engine.ranks import CommittedDigest, Follower, broadcast_distribution
from deployments.engine.settings import WorkerSettings
from deployments.engine.source import make_source
from deployments.tracing.draft_spans import DraftSpans
from deployments.tracing.spec import TracingSpec
from deployments.tracing.start import tracing_of
from drafters.canary_source import CanarySource
from drafters.messages import DraftSource
from drafters.precision import as_dtype
from drafters.sources import RemoteDraftSource

_NEW_STEPS = 32  # after so many an engine knows more of itself than others do
TRACED_AS = "dspark-worker"


class DrafterInRunner:
    """vLLM's `custom_class` proposer. It only switches speculation on: the runner drafts."""

    def __init__(self, vllm_config: Any) -> None:
        del vllm_config

    def load_model(self, target_model: Any) -> None:
        """Nothing to load: the draft source has its own model, or none."""

    def propose(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        raise RuntimeError(
            "vLLM asked the proposer instead of the runner: its worker must be "
            "one of deployments.engine's"
        )


class DraftingRunner:
    """Mixin for a `GPUModelRunner` (V1): the same code drives CPU and CUDA runners."""

    def __init__(self, vllm_config: Any, device: torch.device) -> None:
        super().__init__(vllm_config, device)  # type: ignore[call-arg]
        settings = WorkerSettings.from_config(vllm_config.additional_config)
        install_logits_processors(self, vllm_config, device)
        use_sparse_sampler(rejection_sampler)
        self.use_aux_hidden_state_outputs = bool(settings.target_layer_ids)
        self._scheduled_drafts: dict[str, list[int]] = {}
        self._verified_drafts: dict[str, list[int]] = {}
        self._target_layer_ids = settings.target_layer_ids
        self.settings = settings
        self.policy_settings = settings.policy
        self.controls = Controls()
        self._policies: dict[str, Policy] = {}
        self._step_cost: StepCostTable | None = None
        self._drafts = NO_EXPERIENCE
        self.committed = CommittedDigest()
        self._group = get_tp_group()
        self.adapter: SpeculationAdapter | Follower = (
            self._make_adapter(vllm_config, settings, device)
            if self._group.rank_in_group == 0
            else Follower()
        )

    def _make_adapter(
        self, vllm_config: Any, settings: WorkerSettings, device: torch.device
    ) -> SpeculationAdapter:
        adapter = SpeculationAdapter(
            make_source(settings, vllm_config, device),
            Off(),  # until the cost of a step is known
            target_id=f"{vllm_config.instance_id}",
            block_size=settings.block_size,
            block_tokens=settings.block_tokens,
            num_context_tokens=settings.num_context_tokens,
            max_model_len=vllm_config.model_config.max_model_len,
            vocab_size=vllm_config.model_config.get_vocab_size(),
            feature_dtype=as_dtype(settings.dtype, device),
            needs_tokens=settings.needs_tokens,
            max_step_tokens=vllm_config.scheduler_config.max_num_batched_tokens,
            max_requests=vllm_config.scheduler_config.max_num_seqs,
        )
        if settings.tracing is not None:
            spec = TracingSpec.model_validate(settings.tracing)
            adapter.spans = DraftSpans(tracing_of(spec, TRACED_AS))
        adapter.calibration.replica.adopt(calibrations_from_plain(settings.calibrations))
        return adapter

    def start_drafting(self, step_cost: StepCostTable, drafts: DraftExperience) -> None:
        """Take up the configured policy, now that the cost of a step is known.

        `drafts` is what is known of drafting before.
        """
        self._step_cost, self._drafts = step_cost, drafts
        self.set_policy(self.policy_settings)

    def set_policy(self, settings: dict[str, Any]) -> None:
        """Change the policy between steps; one used before goes on with what it learned."""
        assert self._step_cost is not None, "start_drafting() comes first"
        if isinstance(self.adapter, Follower):
            return
        key = repr(sorted(settings.items()))
        if key not in self._policies:
            self._policies[key] = make_policy(settings, self._step_cost, self._drafts)
        self.adapter.policy = self._policies[key]
        self.policy_settings = settings

    def set_controls(self, controls: Controls) -> None:
        """Change what is changed of the settings; what no longer is goes back to them."""
        if controls == self.controls or isinstance(self.adapter, Follower):
            return
        if controls.plan is False and self.controls.plan is not False:
            start = calibrations_from_plain(self.settings.calibrations)
            self.adapter.calibration.replica.go_back_to(start)
        self.controls = controls
        off = controls.speculation is False
        self.set_policy({"kind": "off"} if off else controls.policy or self.settings.policy)
        self.adapter.max_draft_tokens = controls.max_draft_tokens
        self.adapter.verify_budget_tokens = controls.verify_budget_tokens
        self._set_deadline()

    def _set_deadline(self) -> None:
        """Wait for drafts as long as the controls say, or the settings."""
        assert isinstance(self.adapter, SpeculationAdapter)
        deadline_ms = self.controls.deadline_ms
        deadline_s = self.settings.deadline_s if deadline_ms is None else deadline_ms / 1000
        for source in remote_sources(self.adapter.source):
            source.set_deadline(deadline_s)

    def follow_canary(self, order: CanaryOrder | None, secret: str) -> None:
        """Begin, change or end a canary: the drafter of a share of the sessions to come.

        Raises ValueError for calibrations that cannot be, zmq.ZMQError for an address that is
        none; the canary ends then.
        """
        adapter = self.adapter
        assert isinstance(adapter, SpeculationAdapter)
        arm = adapter.canary
        if arm is not None and (order is None or order.name != arm.name):
            adapter.end_canary()
            arm.source.close()
        if order is None or not isinstance(adapter.source, RemoteDraftSource | CanarySource):
            return
        if adapter.canary is None:
            self._begin_canary(order)
        assert adapter.canary is not None
        try:
            adapter.canary.source.canary.set_address(order.address, secret, order.key)
            replica = adapter.canary.calibration.replica
            replica.adopt(calibrations_from_plain(order.calibrations))
        except (ValueError, zmq.ZMQError):
            self.follow_canary(None, secret)
            raise
        adapter.canary.share = order.share
        adapter.canary.is_promoted = order.is_promoted

    def _begin_canary(self, order: CanaryOrder) -> None:
        adapter = self.adapter
        assert isinstance(adapter, SpeculationAdapter)
        serving = adapter.source
        assert isinstance(serving, RemoteDraftSource)
        canary = make_source(self.settings, self.vllm_config, self.device)  # type: ignore[attr-defined]
        assert isinstance(canary, RemoteDraftSource)
        adapter.canary = CanaryArm(
            order.name,
            serving,
            canary,
            block_size=self.settings.block_size,
            known=adapter.session_ids,
        )
        adapter.source = adapter.canary.source
        self._set_deadline()

    def adopt_step_cost(self, learned: StepCostReport) -> bool:
        """Start from what the fleet learned where this engine has hardly any steps of its own."""
        if isinstance(self.adapter, Follower) or self._step_cost is None:
            return False
        if self.adapter.stats.steps > _NEW_STEPS:
            return False
        self._policies.clear()
        drafts = learned.drafts if learned.drafts.num_drafts else self._drafts
        self.start_drafting(learned.table, drafts)
        return True

    def _get_eagle3_aux_layers_from_config(self) -> tuple[int, ...]:
        # A drafter's layer id i is the output of layer i, which vLLM calls i + 1.
        return tuple(i + 1 for i in self._target_layer_ids)

    def _input_fits_in_drafter(self, common_attn_metadata: Any) -> bool:
        # vLLM would stop drafting for the whole batch when one request nears the
        # model's length; the adapter limits each request on its own.
        return common_attn_metadata is not None

    def execute_model(self, scheduler_output: Any, intermediate_tensors: Any = None) -> Any:
        self._scheduled_drafts = scheduler_output.scheduled_spec_decode_tokens
        stripped = strip_placeholders(scheduler_output)
        self._verified_drafts = stripped.scheduled_spec_decode_tokens
        execute = super().execute_model  # type: ignore[misc]
        return self._timed("forward_s", execute, stripped, intermediate_tensors)

    def sample_tokens(self, grammar_output: Any) -> Any:
        if grammar_output is not None and padded_requests(self._scheduled_drafts):
            grammar_output = strip_bitmask(grammar_output, self._scheduled_drafts)
        return self._timed("sample_s", super().sample_tokens, grammar_output)  # type: ignore[misc]

    def _timed(self, total: str, call: Callable[..., Any], *args: Any) -> Any:
        """What vLLM's `call` returns; its time, drafting aside, is added to a total."""
        if not isinstance(self.adapter, SpeculationAdapter):
            return call(*args)
        stats = self.adapter.stats
        began_s = time.perf_counter() - stats.drafting_s
        output = call(*args)
        took_s = time.perf_counter() - stats.drafting_s - began_s
        setattr(stats, total, getattr(stats, total) + took_s)
        return output

    def _update_states(self, scheduler_output: Any) -> Any:
        began_s = time.perf_counter()
        self._tell_adapter(scheduler_output)
        if isinstance(self.adapter, SpeculationAdapter):
            self.adapter.stats.adapter_s += time.perf_counter() - began_s
        return super()._update_states(scheduler_output)  # type: ignore[misc]

    def _tell_adapter(self, scheduler_output: Any) -> None:
        """Of requests that came, went or were preempted, before the step that is scheduled."""
        drafts = scheduler_output.scheduled_spec_decode_tokens
        self.adapter.begin_step(scheduler_output.num_scheduled_tokens, drafts)
        self.adapter.close_requests(scheduler_output.finished_req_ids)
        self.adapter.suspend_requests(scheduler_output.preempted_req_ids or ())
        for request in scheduler_output.scheduled_new_reqs:
            self.adapter.open_request(request.req_id, terms_of(request))
        if not scheduler_output.total_num_scheduled_tokens:
            self.adapter.flush()

    def propose_draft_token_ids(
        self,
        scheduler_output: Any,
        sampled_token_ids: Any,
        sampling_metadata: Any,
        hidden_states: Any,
        sample_hidden_states: Any,
        aux_hidden_states: Any,
        spec_decode_metadata: Any,
        common_attn_metadata: Any,
        slot_mappings: Any,
    ) -> list[list[int]]:
        batch: Any = self.input_batch  # type: ignore[attr-defined]
        if self._group.world_size > 1:
            self.committed.add(sampled_token_ids)
        return self.adapter.step(
            EngineStep(
                request_ids=batch.req_ids,
                num_scheduled=scheduler_output.num_scheduled_tokens,
                drafts=scheduler_output.scheduled_spec_decode_tokens,
                num_computed=batch.num_computed_tokens_cpu,
                sampled=sampled_token_ids,
                token_ids=batch.token_ids_cpu,
                features=aux_hidden_states or (),
            )
        )

    def _get_spec_decode_draft_probs(self, spec_decode_metadata: Any) -> Any:
        # Not vLLM's [N, V] tensor: what `patches.use_sparse_sampler` takes in its place.
        batch: Any = self.input_batch  # type: ignore[attr-defined]
        q = self.adapter.draft_distribution(batch.req_ids, self._verified_drafts)
        if self._group.world_size > 1 and not batch.sampling_metadata.all_greedy:
            q = broadcast_distribution(q, self._group)
        return None if q is None else q.to(self.device)  # type: ignore[attr-defined]


def remote_sources(source: DraftSource) -> tuple[RemoteDraftSource, ...]:
    """Connections to drafter replicas: the serving one's first."""
    if isinstance(source, CanarySource):
        return source.serving, source.canary
    return (source,) if isinstance(source, RemoteDraftSource) else ()
