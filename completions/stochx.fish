# fish completion for stochx; put this file into ~/.config/fish/completions/
function _stochx_ask
    env _STOCHX_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) stochx 2>/dev/null
end
complete --command stochx --no-files --arguments "(_stochx_ask get-args)" --condition "_stochx_ask is-args"
