"""The completion scripts of four shells; `python -m stochx.cli.completion DIR` writes them.

They ask the program itself, so that names, keys and values are always those of the installed version.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Script:
    """A completion script, and the name of its file."""

    file: str
    text: str


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
    # What stands before the last `:` or `=` is already on the line; answers lack the `--option=`.
    [[ $word == --*=* ]] && word=${word#*=}
    prefix=${word%"${word##*[:=]}"}
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _stochx stochx
"""

ZSH = r"""#compdef stochx
# zsh completion for stochx: put this file as `_stochx` into a folder of $fpath, or `source` it after `compinit`
_stochx() {
    local line value help
    local -a whole begun
    # Fish's answers, lines of `value TAB help`; a value that ends with `=` goes on.
    for line in "${(@f)$(
        _STOCHX_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \
            _TYPER_COMPLETE_ARGS="${words[1,CURRENT-1]} $PREFIX" "${(Q)words[1]/#\~\//$HOME/}" 2>/dev/null
    )}"; do
        [[ -n $line ]] || continue
        value=${${line%%$'\t'*}//:/\\:} help=
        [[ $line == *$'\t'* ]] && help=:${line#*$'\t'}
        if [[ $value == *= ]]; then begun+=("$value$help"); else whole+=("$value$help"); fi
    done
    compset -P 1 '--*='
    if (( $#whole + $#begun )); then
        _describe stochx whole -- begun -S ''
    else
        _files
    fi
}
if [[ $funcstack[1] == _stochx ]]; then
    _stochx "$@"
else
    compdef _stochx stochx
fi
"""

FISH = r"""# fish completion for stochx; put this file into ~/.config/fish/completions/
function _stochx_ask
    set -l word (commandline -ct)
    set -l program (string replace -r '^~/' "$HOME/" -- (commandline -op)[1])
    # Answers lack the `--option=` that fish wants to see again.
    set -l prefix (string match -r -- '^--[^=]+=' "$word")
    set -l answers (env _STOCHX_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \
        _TYPER_COMPLETE_ARGS=(commandline -cp | string collect) "$program" 2>/dev/null | string match -r '.+')
    if test (count $answers) -eq 0
        set answers (__fish_complete_path (string replace -- "$prefix" '' "$word"))
    end
    string join \n -- "$prefix"$answers
end
complete --command stochx --no-files --arguments "(_stochx_ask)"
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
    Remove-Item "Env:_STOCHX_COMPLETE", "Env:_TYPER_COMPLETE_ARGS", "Env:_TYPER_COMPLETE_WORD_TO_COMPLETE"
}
"""

SCRIPTS = {
    "bash": Script("stochx.bash", BASH),
    "zsh": Script("_stochx", ZSH),
    "fish": Script("stochx.fish", FISH),
    "powershell": Script("stochx.ps1", POWERSHELL),
}


def write(folder: Path) -> None:
    """All scripts into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for script in SCRIPTS.values():
        (folder / script.file).write_text(script.text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "completions"))
