"""Neovim's own language client, with `aquila lsp` as an editor starts it: no plug-in."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from client_parts import Server, run

BEFORE, LINE, AFTER = "def 你好(x):\n    s = '😀'\n", "    r", "\n\n\nprint(你好(1))\n"
TYPED = "e😀"  # its end counts four bytes for a character, and two units of UTF-16
DRIVE = """
local done = {}
local config = {
  name = "aquila", cmd = vim.fn.json_decode(vim.env.AQUILA_LSP), root_dir = vim.fn.getcwd(),
  on_exit = function(code) done.code = code end,
}
local id
if vim.lsp.start then
  id = vim.lsp.start(config)
else -- before 0.8
  id = vim.lsp.start_client(config)
  vim.lsp.buf_attach_client(0, id)
end
local client
assert(vim.wait(60000, function()
  client = vim.lsp.get_client_by_id(id)
  return client and client.initialized
end), "the language server did not start")
done.encoding = client.offset_encoding

vim.o.virtualedit = "onemore"
vim.api.nvim_win_set_cursor(0, { 3, 5 })
vim.api.nvim_put({ vim.env.TYPED }, "c", false, true)
local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
params.context = { triggerKind = 2 }
done.position = params.position
vim.lsp.buf_request(0, "textDocument/inlineCompletion", params, function(error, result)
  done.error, done.result = error, result
end)
assert(vim.wait(60000, function() return done.error or done.result end), "no answer")
if done.result then
  local item = done.result.items[1]
  local edit = { range = item.range, newText = item.insertText }
  vim.lsp.util.apply_text_edits({ edit }, vim.api.nvim_get_current_buf(), client.offset_encoding)
  vim.cmd("write")
end
vim.lsp.stop_client(id)
vim.wait(60000, function() return done.code ~= nil end)
vim.fn.writefile({ vim.fn.json_encode(done) }, vim.env.DONE)
"""


@pytest.mark.parametrize("over", ["model", "server"])
def test_a_completion_reaches_the_buffer(over: str, fim_model: Path, fim_server: Server, home: Path) -> None:
    """What stands in the file is what `aquila complete` gives for the place, after an edit beyond ASCII."""
    if shutil.which("nvim") is None:
        pytest.skip("there is no nvim: tests/clients/install.sh installs it")
    aquila = [sys.executable, "-m", "aquila"]
    source = ("--model", str(fim_model)) if over == "model" else ("--base-url", fim_server.url)
    options = (*source, "--max-new-tokens", "12")
    file = home / "a.py"
    file.write_text(BEFORE + LINE + TYPED + AFTER, encoding="utf-8")
    place = [*aquila, "complete", f"{file}:3", *options, "--json"]
    text = json.loads(subprocess.run(place, capture_output=True, check=True, timeout=120).stdout)["text"]
    assert text.strip(), "the test needs a place where the model has something to say"

    file.write_text(BEFORE + LINE + AFTER, encoding="utf-8")
    (home / "drive.lua").write_text(DRIVE, encoding="utf-8")
    variables = {"AQUILA_LSP": json.dumps([*aquila, "lsp", *options]), "TYPED": TYPED, "DONE": str(home / "done.json")}
    drive = "try | execute 'luafile drive.lua' | catch | echo v:exception | cquit | endtry"
    run("nvim", "--headless", "-n", "-u", "NONE", file, "-c", drive, "-c", "qall!", home=home, **variables)
    done = json.loads((home / "done.json").read_text(encoding="utf-8"))
    assert done.get("error") is None, done
    assert done["encoding"] == "utf-16"
    assert done["position"] == {"line": 2, "character": 8}
    assert file.read_text(encoding="utf-8") == BEFORE + LINE + TYPED + text + AFTER
    assert done["code"] == 0
