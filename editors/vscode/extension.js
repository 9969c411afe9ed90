// Inline completion from a server of your own. Everything that does not need VS Code is in infill.js.

"use strict";

const vscode = require("vscode");
const { Completer, ServerError, infillBody, insertion, serverRoot, worthAsking } = require("./infill.js");

const READY = "$(sparkle) Aquila";

class Status {
  constructor(context) {
    this.item = vscode.window.createStatusBarItem("aquila.status", vscode.StatusBarAlignment.Right, 100);
    this.item.name = "Aquila";
    this.item.command = "aquila.toggle";
    context.subscriptions.push(this.item);
    this.idle();
    this.item.show();
  }

  idle() {
    const on = settings().get("enabled");
    this.item.text = on ? READY : "$(circle-slash) Aquila";
    this.item.tooltip = on ? `completing with ${settings().get("baseUrl")}` : "off; click to turn on";
    this.item.backgroundColor = undefined;
  }

  busy() {
    this.item.text = "$(loading~spin) Aquila";
  }

  failed(error) {
    this.item.text = "$(warning) Aquila";
    this.item.tooltip = explain(error);
    this.item.backgroundColor = new vscode.ThemeColor("statusBarItem.warningBackground");
  }
}

function settings() {
  return vscode.workspace.getConfiguration("aquila");
}

/** One line on what went wrong and what to do. */
function explain(error) {
  if (error instanceof ServerError) return error.message;
  if (error.name === "TimeoutError") return "the server took too long; raise aquila.timeoutMs or serve a smaller model";
  return `nobody answers at ${settings().get("baseUrl")}; start \`aquila serve MODEL\`, or set aquila.baseUrl`;
}

/** Other open documents, the one that was shown last in the last place. */
function otherFiles(document, count) {
  return vscode.workspace.textDocuments
    .filter((other) => other !== document && other.uri.scheme === "file" && !other.isClosed)
    .slice(-count || Infinity)
    .map((other) => ({ filename: vscode.workspace.asRelativePath(other.uri), text: other.getText() }));
}

/**
 * The document and the cursor as if the entry chosen in the open list of words were typed: VS Code shows no completion
 * beside that list that does not begin with it. Without a list: as they are.
 */
function withChosenWord(document, position, chosen) {
  const { start: from, end: to } = chosen?.range ?? { start: position, end: position };
  const typed = chosen?.text ?? "";
  const text = document.getText();
  const start = document.offsetAt(from);
  return { text: text.slice(0, start) + typed + text.slice(document.offsetAt(to)), offset: start + typed.length, typed, from, to };
}

class Provider {
  constructor(status) {
    this.status = status;
    this.completer = new Completer();
  }

  async provideInlineCompletionItems(document, position, context, token) {
    const config = settings();
    if (!config.get("enabled") || config.get("disabledLanguages").includes(document.languageId)) return [];
    const { text, offset, typed, from, to } = withChosenWord(document, position, context.selectedCompletionInfo);
    const asked = context.triggerKind === vscode.InlineCompletionTriggerKind.Invoke;
    if (!asked && !worthAsking(text, offset)) return [];
    const normal = text.replaceAll("\r\n", "\n"); // the model has seen no other line ends
    const place = text.slice(0, offset).replaceAll("\r\n", "\n").length;
    const abort = new AbortController();
    const listener = token.onCancellationRequested(() => abort.abort());
    this.status.busy();
    try {
      const body = infillBody(normal, place, {
        extra: config.get("extraFiles") > 0 ? otherFiles(document, config.get("extraFiles")) : [],
        maxTokens: config.get("maxTokens"),
        model: config.get("model"),
      });
      const content = await this.completer.complete(body, {
        baseUrl: config.get("baseUrl"),
        apiKey: config.get("apiKey"),
        timeoutMs: config.get("timeoutMs"),
        debounceMs: asked ? 0 : config.get("debounceMs"),
        signal: abort.signal,
      });
      this.status.idle();
      const found = content === null ? null : insertion(content, normal, place);
      if (found === null) return [];
      const range = new vscode.Range(from, to.translate(0, found.replace));
      return [new vscode.InlineCompletionItem(typed + found.text, range)];
    } catch (error) {
      this.status.failed(error);
      return [];
    } finally {
      listener.dispose();
    }
  }
}

async function checkServer() {
  const config = settings();
  const root = serverRoot(config.get("baseUrl"));
  try {
    const headers = config.get("apiKey") ? { authorization: `Bearer ${config.get("apiKey")}` } : {};
    const response = await fetch(`${root}/props`, { headers, signal: AbortSignal.timeout(config.get("timeoutMs")) });
    if (!response.ok) throw new ServerError(response.status, `${root} said ${response.status}`);
    const props = await response.json();
    const context = props.default_generation_settings?.n_ctx;
    const fills = props.fill_in_the_middle === undefined || props.fill_in_the_middle.length > 0;
    const text = `${props.model_alias ?? root}: context of ${context} tokens`;
    if (fills) vscode.window.showInformationMessage(`Aquila: ${text}`);
    else vscode.window.showWarningMessage(`Aquila: ${text}, but it was not trained to fill in the middle; serve one that was`);
  } catch (error) {
    vscode.window.showErrorMessage(`Aquila: ${explain(error)}`);
  }
}

function activate(context) {
  const status = new Status(context);
  context.subscriptions.push(
    vscode.languages.registerInlineCompletionItemProvider({ pattern: "**" }, new Provider(status)),
    vscode.commands.registerCommand("aquila.toggle", async () => {
      await settings().update("enabled", !settings().get("enabled"), vscode.ConfigurationTarget.Global);
    }),
    vscode.commands.registerCommand("aquila.checkServer", checkServer),
    vscode.workspace.onDidChangeConfiguration((change) => {
      if (change.affectsConfiguration("aquila")) status.idle();
    }),
  );
}

function deactivate() {}

module.exports = { activate, deactivate, Provider };
