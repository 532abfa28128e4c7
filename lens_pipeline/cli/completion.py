"""The command `completion`: the script by which a shell completes commands and options."""

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice([*_SHELLS]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes commands and options of `lens`.

    bash and zsh: put eval "$(lens completion bash)", or zsh, into ~/.bashrc or ~/.zshrc. fish:
    write it to ~/.config/fish/completions/lens.fish.
    """
    root = context.find_root().command
    print(_SHELLS[shell](root, {}, "lens", "_LENS_COMPLETE").source())
