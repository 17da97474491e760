# PowerShell completion for stochx; run `. ./stochx.ps1` in your $PROFILE
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
