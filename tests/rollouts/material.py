"""Prompts, loaded models and a plain reference for the tests of rollouts."""

import torch

from lit_vlm.functional.chunked_log_probs import token_log_probs
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.prompt_rows import TOKEN_TYPES
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings


def load(folder, **options):
    backbone = Backbone(str(folder), **options)
    encoder = backbone.load_encoder()
    return encoder, backbone.load_model(encoder).eval()


def engine(**sampling) -> HFRolloutEngine:
    return HFRolloutEngine(SamplingSettings(**{"max_new_tokens": 12, **sampling}))


def without_end(policy):
    """Lets no token end a completion, so that lengths are known."""
    policy.model.generation_config.eos_token_id = None
    return policy


def rows_of(rollouts) -> list[list[int]]:
    """The sampled tokens of each completion, without padding."""
    return [ids[mask != 0].tolist() for ids, mask in zip(rollouts.token_ids, rollouts.mask, strict=True)]


@torch.no_grad()
def teacher_forced(policy, encoder, rollouts, temperature):
    """Log-probabilities and entropies by a pass over whole rows, each prompt encoded anew for each completion."""
    prompts = encoder.encode_prompts([rollouts.prompts.samples[row] for row in rollouts.prompt_of])
    token_ids, mask = rollouts.token_ids, rollouts.mask
    visual = {
        name: torch.cat([tensor, torch.zeros_like(token_ids)], 1) if name in TOKEN_TYPES else tensor
        for name, tensor in prompts.visual.items()
    }
    batch = PromptBatch(
        torch.cat([prompts.input_ids, token_ids], 1), torch.cat([prompts.attention_mask, mask], 1), visual
    )
    hidden = policy.hidden_states(batch)[:, prompts.input_ids.shape[1] - 1 : -1]
    scores = policy.model.get_output_embeddings()(hidden).float() / temperature
    entropies = torch.distributions.Categorical(logits=scores).entropy()
    return token_log_probs(scores, token_ids) * mask, entropies * mask
