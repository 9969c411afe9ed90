// The words of the page, in English and Chinese. `t(key)` gives those of the language that is on.

const WORDS = {
  skip: ["Skip to the message box", "跳到输入框"],
  conversations: ["Conversations", "对话"],
  openSidebar: ["Conversations", "对话列表"],
  close: ["Close", "关闭"],
  newChat: ["New conversation", "新对话"],
  search: ["Search", "搜索"],
  nothingFound: ["Nothing found", "没有找到"],
  noConversations: ["Conversations are kept in this browser.", "对话保存在本浏览器中。"],
  notKept: ["This browser window keeps nothing: export what you need.", "此浏览器窗口不保存内容：需要的话请导出。"],
  import: ["Import", "导入"],
  exportAll: ["Export", "导出"],
  exportOne: ["Export this conversation", "导出此对话"],
  imported: ["Conversations imported: {count}", "已导入 {count} 个对话"],
  importFailed: ["Nothing was imported. {reason}", "没有导入任何内容。{reason}"],
  rename: ["Rename", "重命名"],
  remove: ["Delete", "删除"],
  removeTitle: ["Delete this conversation?", "删除此对话？"],
  removeText: ["“{title}” will be gone for good.", "“{title}”将被永久删除。"],
  cancel: ["Cancel", "取消"],
  save: ["Save", "保存"],
  language: ["Language", "语言"],
  languageAuto: ["Language: auto", "语言：自动"],
  theme: ["Theme", "主题"],
  themeAuto: ["Theme: auto", "主题：自动"],
  themeLight: ["Light", "浅色"],
  themeDark: ["Dark", "深色"],
  mode: ["Mode", "模式"],
  chat: ["Chat", "对话"],
  complete: ["Complete", "续写"],
  infill: ["Infill", "填空"],
  model: ["Model", "模型"],
  adapterOf: ["{name} (adapter)", "{name}（适配器）"],
  settings: ["Settings", "设置"],
  thread: ["Messages", "消息"],
  toEnd: ["To the end", "到末尾"],
  composeLabel: ["Message", "消息"],
  composePlaceholder: ["Write a message", "输入消息"],
  enterHint: ["Enter to send, Shift + Enter for a new line", "Enter 发送，Shift + Enter 换行"],
  attach: ["Attach text, code or pictures", "添加文本、代码或图片"],
  detach: ["Remove {name}", "移除 {name}"],
  attachFailed: ["{name}: only text files up to 256 KB and pictures up to 8 MB", "{name}：只支持 256 KB 以内的文本文件和 8 MB 以内的图片"],
  attachNoImages: ["{name}: no tool here takes pictures", "{name}：这里没有能处理图片的工具"],
  send: ["Send", "发送"],
  stop: ["Stop", "停止"],
  welcome: ["What shall we write?", "想写点什么？"],
  welcomeBase: ["{model} is a base model: it continues text rather than answering. Complete and Infill suit it best.", "{model} 是基础模型：它续写文本而不是回答问题，更适合“续写”和“填空”。"],
  try1: ["Write a Python function that checks whether a number is prime.", "写一个判断素数的 Python 函数。"],
  try2: ["Explain what this SQL does: SELECT name, COUNT(*) FROM t GROUP BY name;", "解释这条 SQL：SELECT name, COUNT(*) FROM t GROUP BY name;"],
  try3: ["Summarise the idea of a hash table in three sentences.", "用三句话说明哈希表的原理。"],
  you: ["You", "你"],
  assistant: ["Assistant", "助手"],
  copy: ["Copy", "复制"],
  copied: ["Copied", "已复制"],
  copyCode: ["Copy code", "复制代码"],
  code: ["code", "代码"],
  codeOf: ["Code: {language}", "代码：{language}"],
  table: ["Table", "表格"],
  taskDone: ["done", "已完成"],
  taskOpen: ["open", "未完成"],
  edit: ["Edit", "编辑"],
  editLabel: ["Edit message", "编辑消息"],
  regenerate: ["Answer again", "重新回答"],
  continue: ["Continue", "继续"],
  retry: ["Try again", "重试"],
  previous: ["Previous version", "上一个版本"],
  next: ["Next version", "下一个版本"],
  versionOf: ["{place} of {count}", "第 {place} 个，共 {count} 个"],
  stopped: ["Stopped", "已停止"],
  cutOff: ["The answer reached its length limit.", "回答达到了长度上限。"],
  answering: ["Answering", "正在回答"],
  answered: ["Answer complete", "回答完毕"],
  thinking: ["Waiting for the first token", "等待第一个 token"],
  stats: ["{tokens} tokens · {speed} tokens/s · first after {first} s", "{tokens} tokens · {speed} tokens/秒 · 首 token {first} 秒"],
  statsShort: ["{tokens} tokens · first after {first} s", "{tokens} tokens · 首 token {first} 秒"],
  cachedTokens: ["{count} of {prompt} prompt tokens were cached", "提示词 {prompt} tokens 中 {count} 个来自缓存"],
  context: ["Context used", "已用上下文"],
  contextOf: ["{used} of {size} tokens", "{used} / {size} tokens"],
  error: ["Something went wrong", "出错了"],
  offline: ["The server cannot be reached.", "无法连接服务器。"],
  offlineRetrying: ["Trying again every few seconds.", "每隔几秒会自动重试。"],
  loading: ["The model is being loaded.", "模型正在加载。"],
  online: ["Connected again", "已重新连接"],
  tryNow: ["Try now", "立即重试"],
  keyTitle: ["API key", "API 密钥"],
  keyText: ["This server asks for a key. It is kept until this tab is closed.", "此服务器需要密钥。密钥只保存到此标签页关闭为止。"],
  keyWrong: ["That key was refused. Try another one.", "密钥被拒绝，请换一个。"],
  connect: ["Connect", "连接"],
  system: ["System prompt", "系统提示词"],
  systemHelp: ["Stands before this conversation: a role, a style, facts to keep in mind.", "放在本次对话之前：角色、风格或需要记住的事实。"],
  sampling: ["Sampling", "采样"],
  more: ["More", "更多"],
  defaults: ["Defaults", "恢复默认值"],
  explain: ["What is “{name}”?", "“{name}”是什么？"],
  temperature: ["Temperature", "温度"],
  temperatureHelp: ["How freely words are chosen. Near 0 the likeliest word always wins, which suits code; near 1 answers vary more. 0 is greedy. Aquila's default is 0.8.", "控制用词的随机程度。接近 0 时总选最可能的词，适合代码；接近 1 时更多样。0 为贪心解码。Aquila 默认 0.8。"],
  top_k: ["Top-k", "Top-k"],
  top_kHelp: ["Only the k likeliest tokens are drawn from; 0 means all of them. Default 30.", "只从概率最高的 k 个 token 中采样；0 表示不限制。默认 30。"],
  top_p: ["Top-p", "Top-p"],
  top_pHelp: ["Of those, only as many as make up this share of the probability. Smaller is safer, larger is more varied. Default 0.95.", "再从中保留累计概率达到该值的 token。越小越稳妥，越大越多样。默认 0.95。"],
  max_tokens: ["Length limit", "最大长度"],
  max_tokensHelp: ["The most tokens that one answer may have (max_length). A longer answer can be continued. Default 200.", "一次回答最多生成的 token 数（max_length）。更长的回答可以继续。默认 200。"],
  seed: ["Seed", "随机种子"],
  seedHelp: ["The same seed and settings give the same answer. Empty draws a new one each time.", "种子和设置相同，回答就相同。留空则每次随机。"],
  seedEmpty: ["random", "随机"],
  min_p: ["Min-p", "Min-p"],
  min_pHelp: ["Drops tokens that are less likely than this share of the likeliest one. 0 drops none.", "丢弃概率低于“最高概率 × 该值”的 token。0 表示不丢弃。"],
  repetition_penalty: ["Repetition penalty", "重复惩罚"],
  repetition_penaltyHelp: ["Above 1, tokens that already occurred become less likely. 1 changes nothing.", "大于 1 时，已出现的 token 概率降低。1 表示不变。"],
  presence_penalty: ["Presence penalty", "存在惩罚"],
  presence_penaltyHelp: ["Lowers tokens that the answer already has, once each.", "对回答中出现过的 token 一次性降权。"],
  frequency_penalty: ["Frequency penalty", "频率惩罚"],
  frequency_penaltyHelp: ["Lowers tokens each time they occur in the answer.", "按回答中出现的次数降权。"],
  stopTexts: ["Stop texts", "停止文本"],
  stopTextsHelp: ["The answer ends before one of these; one a line.", "回答在出现这些文本之前结束；每行一个。"],
  tools: ["Tools", "工具"],
  noTools: ["The server was started without tools (aquila serve --tools).", "服务器未启用工具（aquila serve --tools）。"],
  network: ["network", "联网"],
  write: ["writes files", "写文件"],
  exec: ["runs programs", "执行程序"],
  unavailable: ["not installed", "未安装"],
  toolCall: ["Tool call: {name}", "工具调用：{name}"],
  arguments: ["Arguments", "参数"],
  result: ["Result", "结果"],
  stateWritten: ["being written", "生成中"],
  stateConfirm: ["waits for you", "等待确认"],
  stateRunning: ["running", "运行中"],
  stateDone: ["done", "完成"],
  stateFailed: ["failed", "失败"],
  stateDeclined: ["not run", "未运行"],
  confirmRun: ["This tool needs your consent: {permissions}.", "此工具需要你的同意：{permissions}。"],
  run: ["Run", "运行"],
  decline: ["Do not run", "不运行"],
  unknownTool: ["The model called a tool that is not enabled here.", "模型调用了未启用的工具。"],
  badArguments: ["The model's arguments are not a JSON object.", "模型给出的参数不是 JSON 对象。"],
  interrupted: ["The page was closed before it ended.", "页面在运行结束前被关闭。"],
  step: ["Step {place}", "第 {place} 步"],
  steps: ["Steps", "步骤"],
  resultImage: ["Picture made by {name}", "{name} 生成的图片"],
  download: ["Download", "下载"],
  editImage: ["Edit this picture", "继续编辑此图"],
  enlarge: ["Enlarge", "放大"],
  prompt: ["Text", "文本"],
  promptPlaceholder: ["Begin a text or a function; the model goes on from its end.", "写下开头，模型会从末尾继续。"],
  prefix: ["Before the gap", "空缺之前"],
  suffix: ["After the gap", "空缺之后"],
  completion: ["The model's text", "模型生成"],
  completionEmpty: ["The model's text appears here.", "模型生成的文本会出现在这里。"],
  runComplete: ["Complete", "续写"],
  runInfill: ["Fill the gap", "填空"],
  accept: ["Accept", "采纳"],
  again: ["Again", "再来一次"],
  clear: ["Clear", "清空"],
  ctrlEnter: ["Ctrl + Enter", "Ctrl + Enter"],
  noInfill: ["{model} was not trained to fill gaps, so this mode is likely to be refused.", "{model} 没有经过填空训练，此模式可能不可用。"],
};

const LANGUAGES = ["en", "zh"];
let current = "en";

export function language() {
  return current;
}

// "auto" goes by the browser.
export function setLanguage(choice) {
  const wanted = choice === "auto" ? navigator.language : choice;
  current = wanted.toLowerCase().startsWith("zh") ? "zh" : "en";
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  translate(document);
}

export function t(key, values = {}) {
  const texts = WORDS[key];
  if (!texts) throw new Error(`no words for ${key}`);
  return texts[LANGUAGES.indexOf(current)].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

// Texts, labels and placeholders of what is in index.html.
function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
  for (const element of root.querySelectorAll("[data-t-label]")) {
    const label = t(element.dataset.tLabel);
    element.setAttribute("aria-label", label);
    if (element.matches("button")) element.title = label;
  }
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(current === "zh" ? "zh-CN" : "en", { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
}

export const words = WORDS;
