# bash completion for stochx: `source` this file, for instance from ~/.bashrc
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
