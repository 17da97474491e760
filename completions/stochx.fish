# fish completion for stochx; put this file into ~/.config/fish/completions/
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
