"""What every command says about prompts that make no edit."""

from pds_nerfstudio.errors import UserError


def check_prompts(src_prompt: str, tgt_prompt: str, flags: str = "--", needs_source: bool = True) -> None:
    """Raise a UserError if a prompt is empty, or both are the same.

    Args:
        flags: what stands before "src-prompt" and "tgt-prompt" on the command line.
        needs_source: whether the source prompt means anything to the objective.
    """
    if not tgt_prompt.strip():
        raise UserError(f'The target prompt is empty: say what you want with {flags}tgt-prompt "a photo of …".')
    if not needs_source:
        return
    if not src_prompt.strip():
        raise UserError(f'The source prompt is empty: say what is there, {flags}src-prompt "a photo of …".')
    if src_prompt.strip() == tgt_prompt.strip():
        raise UserError("The source and the target prompt are the same, so nothing would change: give two.")
