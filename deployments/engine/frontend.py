"""What is mended in vLLM's frontend, the process that takes requests and gives back text."""

from __future__ import annotations

from typing import Any

from deployments.engine.eligibility import SWITCH
from deployments.engine.said import take_up_in_frontend
from deployments.engine.streaming import feed_parsers_token_by_token


def mend_frontend() -> None:
    """Put all mends into vLLM 0.29 where we draft; doing it twice changes nothing."""
    from vllm.sampling_params import SamplingParams

    # `min_p` and `logit_bias` would be refused under speculation. Requests with them run
    # without drafts, on the processors that `patches.install_logits_processors` puts back.
    SamplingParams._validate_spec_decode = _validate_beside_drafts
    mend_text()


def mend_native_frontend() -> None:
    """The same where vLLM drafts by itself, which refuses more and heeds less."""
    from vllm.sampling_params import SamplingParams

    refuse_what_native_ignores(SamplingParams)
    mend_text()


def mend_text() -> None:
    """The mends of what is made of tokens committed together, whoever drafted them."""
    from vllm.parser import ParserManager
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer
    from vllm.v1.engine.output_processor import RequestState

    take_up_in_frontend(RequestState)
    stop_at_the_token(BaseIncrementalDetokenizer)
    feed_parsers_token_by_token(ParserManager)


def _validate_beside_drafts(self: Any, speculative_config: Any) -> None:
    """Raises VLLMValidationError (a 400) for what neither drafts nor their absence can give."""
    _refuse_unknown_switch(self)
    if speculative_config is not None:
        _refuse_logprob_token_ids(self)


def _refused(message: str) -> Exception:
    """What vLLM's frontend answers with 400; of a ValueError it makes a 500."""
    from vllm.exceptions import VLLMValidationError

    refused: Exception = VLLMValidationError(message)
    return refused


def _refuse_unknown_switch(params: Any) -> None:
    value = (params.extra_args or {}).get(SWITCH, "on")
    if value not in ("on", "off"):
        raise _refused(f'vllm_xargs {SWITCH}: {value!r} is neither "on" nor "off"')


def _refuse_logprob_token_ids(params: Any) -> None:
    """vLLM's rejection samplers, V1's and V2's, leave `logprob_token_ids` out for every
    request of a step that has drafts, also for those without. Raises VLLMValidationError."""
    if params.logprob_token_ids:
        raise _refused(
            "logprob_token_ids is not available where requests are drafted for; ask for "
            "logprobs, or a model without speculation"
        )


def refuse_what_native_ignores(params_class: Any) -> None:
    """Let vLLM's validation refuse, with a 400, what its drafting would ignore."""
    original = params_class._validate_spec_decode
    if hasattr(original, "vllms_own"):
        return

    def validate(self: Any, speculative_config: Any) -> None:
        original(self, speculative_config)
        if speculative_config is None:
            return
        _refuse_unknown_switch(self)
        _refuse_logprob_token_ids(self)
        if (self.extra_args or {}).get(SWITCH) == "off":
            raise _refused(
                f"vllm_xargs {SWITCH}: off is not available for this model: vLLM drafts for it "
                f"(placement native) and can leave no request out; remove {SWITCH} from "
                "vllm_xargs, or serve the model with placement colocated or split"
            )

    validate.vllms_own = original  # type: ignore[attr-defined]
    params_class._validate_spec_decode = validate


def refusing_what_kills(generate: Any, config: Any) -> Any:
    """`AsyncLLM.generate` that refuses, with a 400, what its engine would die of.

    On processors vLLM 0.29's LoRA layer takes every row of logits for a sampled one: log
    probabilities of a prompt end the engine, adapter or not.
    """
    on_processors = config.device_config.device_type == "cpu"
    if config.lora_config is None or not on_processors:
        return generate

    def refusing(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(sampling_params, "prompt_logprobs", None) is not None:
            raise _refused(
                "log probabilities of the prompt are not available on processors where the "
                "model has LoRA adapters; leave out prompt_logprobs, or echo with logprobs"
            )
        return generate(prompt, sampling_params, *args, **kwargs)

    return refusing


def stop_at_the_token(detokenizer: Any) -> None:
    """Let stop strings end a request at the token that completes them.

    vLLM looks for them once per step: of several tokens committed together, those behind
    the stop string stay among the output's token ids and in the usage.
    """
    original = detokenizer.update
    if hasattr(original, "per_step"):
        return

    def update(self: Any, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        found: str | None
        if not self.stop or len(new_token_ids) < 2:
            found = original(self, new_token_ids, stop_terminated)
            return found
        last = len(new_token_ids) - 1
        for i, token in enumerate(tuple(new_token_ids)):
            found = original(self, [token], stop_terminated and i == last)
            if found is not None:
                del new_token_ids[i + 1 :]  # the caller's list: what the request has said
                return found
        return None

    update.per_step = original  # type: ignore[attr-defined]
    detokenizer.update = update
