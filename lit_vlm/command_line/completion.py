"""The verb ``completion``: a completion script for the shell."""

from __future__ import annotations

from lit_vlm.cli import VERBS
from lit_vlm.interfaces.errors import UserError

OPTIONS = (
    "--config --print_config --help --debug --ckpt_path --seed_everything --model --model.backbone.checkpoint "
    "--model.optimizer.learning_rate --model.generation.max_new_tokens --data --data.batch_size --data.num_workers "
    "--trainer.max_epochs --trainer.max_steps --trainer.devices --trainer.strategy --trainer.precision "
    "--trainer.accelerator --trainer.accumulate_grad_batches --trainer.logger --trainer.callbacks"
)
DATA_OPTIONS = "--config --split --samples --shown --out --help --debug --model --model.backbone.checkpoint --data"
MERGE_OPTIONS = (
    "--config --output --dry_run --as_lora --as_vector --print_config --help --debug --merge.operation --merge.donors "
    "--merge.target --merge.base --merge.vocabulary --merge.tied --merge.dtype --merge.device --merge.seed "
    "--merge.largest_shard"
)
EXPORT_OPTIONS = "--output --checkpoint --config --base --adapter --dtype --shard_size --overwrite --help --debug"
PIPELINE_OPTIONS = "--config --output --only --dry_run --set --rerun --help --debug"
SPLITS = "train validation test"

# Recipe names are asked for once per shell, as each question starts Python.
BASH = """\
_lit_vlm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    if [[ $before == --config || $before == show ]]; then
        [[ -n $_lit_vlm_recipes ]] || _lit_vlm_recipes=$(lit-vlm recipes --names 2>/dev/null)
        COMPREPLY=($(compgen -W "$_lit_vlm_recipes" -- "$word") $(compgen -f -- "$word"))
    elif [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "{verbs} --help --version" -- "$word"))
    elif [[ ${{COMP_WORDS[1]}} == recipes ]]; then
        COMPREPLY=($(compgen -W "show --names" -- "$word"))
    elif [[ ${{COMP_WORDS[1]}} == completion ]]; then
        COMPREPLY=($(compgen -W "bash zsh" -- "$word"))
    elif [[ ${{COMP_WORDS[1]}} == data && $before == --split ]]; then
        COMPREPLY=($(compgen -W "{splits}" -- "$word"))
    elif [[ ${{COMP_WORDS[1]}} == data && $word == -* ]]; then
        COMPREPLY=($(compgen -W "{data_options}" -- "$word"))
    elif [[ ${{COMP_WORDS[1]}} == merge && $word == -* ]]; then
        COMPREPLY=($(compgen -W "{merge_options}" -- "$word"))
    elif [[ ${{COMP_WORDS[1]}} == export && $word == -* ]]; then
        COMPREPLY=($(compgen -W "{export_options}" -- "$word"))
    elif [[ ${{COMP_WORDS[1]}} == pipeline && $word == -* ]]; then
        COMPREPLY=($(compgen -W "{pipeline_options}" -- "$word"))
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "{options}" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}}
complete -F _lit_vlm lit-vlm
"""


def run(verb: str, arguments: list[str]) -> int:
    """Prints the script: ``eval "$(lit-vlm completion bash)"`` switches it on."""
    if arguments not in (["bash"], ["zsh"]):
        raise UserError("usage: lit-vlm completion bash|zsh")
    script = BASH.format(
        verbs=" ".join(VERBS),
        options=OPTIONS,
        data_options=DATA_OPTIONS,
        merge_options=MERGE_OPTIONS,
        export_options=EXPORT_OPTIONS,
        pipeline_options=PIPELINE_OPTIONS,
        splits=SPLITS,
    )
    if arguments == ["zsh"]:
        script = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + script
    print(script, end="")
    return 0
