"""The completion scripts of four shells; `python -m stochx.cli.completion DIR` writes them.

They ask the program itself, so that names, keys and values are always those of the installed version.
"""

from __future__ import annotations

import sys
from pathlib import Path

BASH = r"""# bash completion for stochx: `source` this file, for instance from ~/.bashrc
_stochx() {
    local IFS=$'\n' line word prefix
    # Bash splits words at `:` and `=`; the program wants them as typed.
    line=${COMP_LINE:0:COMP_POINT}
    word=${line##*[[:space:]]}
    local -a words
    IFS=$' \t\n' read -r -a words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    IFS=$'\n'
    local -x COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _STOCHX_COMPLETE=complete_bash
    COMPREPLY=($("$1" 2>/dev/null))
    # What stands before the last `:` or `=` is already on the line.
    prefix=${word%"${word##*[:=]}"}
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _stochx stochx
"""

ZSH = r"""#compdef stochx
# zsh completion for stochx; put this file as `_stochx` into a folder of $fpath
_stochx() {
    eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _STOCHX_COMPLETE=complete_zsh stochx 2>/dev/null)"
}
compdef _stochx stochx
"""

FISH = r"""# fish completion for stochx; put this file into ~/.config/fish/completions/
function _stochx_ask
    env _STOCHX_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) stochx 2>/dev/null
end
complete --command stochx --no-files --arguments "(_stochx_ask get-args)" --condition "_stochx_ask is-args"
"""

POWERSHELL = r"""# PowerShell completion for stochx; run `. ./stochx.ps1` in your $PROFILE
Register-ArgumentCompleter -Native -CommandName stochx -ScriptBlock {
    param($word, $ast, $position)
    $Env:_STOCHX_COMPLETE = "complete_powershell"
    $Env:_TYPER_COMPLETE_ARGS = $ast.ToString()
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = $word
    stochx 2>$null | ForEach-Object {
        $text, $help = $_ -split ":::", 2
        if (-not $help) { $help = $text }
        [System.Management.Automation.CompletionResult]::new($text, $text, "ParameterValue", $help)
    }
    Remove-Item Env:_STOCHX_COMPLETE, Env:_TYPER_COMPLETE_ARGS, Env:_TYPER_COMPLETE_WORD_TO_COMPLETE
}
"""

SCRIPTS = {"stochx.bash": BASH, "_stochx": ZSH, "stochx.fish": FISH, "stochx.ps1": POWERSHELL}


def write(folder: Path) -> None:
    """All scripts into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in SCRIPTS.items():
        (folder / name).write_text(script, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "completions"))
