// Code to coloured pieces: highlight("python", "x = 1") -> [["", "x = "], ["number", "1"]]. Joined, they are the code.

const words = (text) => new Set(text.split(" "));
const C_NUMBER = /0[xX][\da-fA-F_]+[uUlLn]*|0[bBoO][0-7_]+[uUlLn]*|(?:\d[\d_']*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?[a-zA-Z%]*/y;
const C_COMMENTS = [/\/\/[^\n]*/y, /\/\*[\s\S]*?(?:\*\/|$)/y];
const DOUBLE = /"(?:\\[\s\S]|[^"\\\n])*(?:"|$|(?=\n))/y;
const SINGLE = /'(?:\\[\s\S]|[^'\\\n])*(?:'|$|(?=\n))/y;
const NAME = /[\p{L}_$][\p{L}\p{N}_$]*/uy;

const LANGUAGES = {
  python: {
    comments: [/#[^\n]*/y],
    strings: [/[rRbBuUfFtT]{0,2}(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$))/y, /[rRbBuUfFtT]{0,2}"(?:\\[\s\S]|[^"\\\n])*(?:"|$|(?=\n))/y, /[rRbBuUfFtT]{0,2}'(?:\\[\s\S]|[^'\\\n])*(?:'|$|(?=\n))/y],
    meta: /@[\w.]+/y,
    keywords: words("and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return try type while with yield"),
    constants: words("True False None self cls NotImplemented Ellipsis"),
    types: words("int float str bytes bool list dict set frozenset tuple object type complex range"),
  },
  javascript: {
    comments: C_COMMENTS,
    strings: [DOUBLE, SINGLE, /`(?:\\[\s\S]|[^`\\])*(?:`|$)/y],
    keywords: words("abstract as async await break case catch class const continue debugger declare default delete do else enum export extends finally for from function get if implements import in infer instanceof interface is keyof let namespace new of private protected public readonly return satisfies set static super switch throw try type typeof var void while with yield"),
    constants: words("true false null undefined NaN Infinity this globalThis"),
    types: words("string number boolean any unknown never object symbol bigint Array Map Set Promise Record Partial"),
  },
  java: {
    comments: C_COMMENTS,
    strings: [/"""[\s\S]*?(?:"""|$)/y, DOUBLE, SINGLE],
    meta: /@\w+/y,
    keywords: words("abstract assert break case catch class const continue default do else enum extends final finally for goto if implements import instanceof interface native new non-sealed package permits private protected public record return sealed static strictfp super switch synchronized this throw throws transient try var void volatile while yield"),
    constants: words("true false null"),
    types: words("boolean byte char double float int long short String Integer Long Double Object List Map Set"),
  },
  c: {
    comments: C_COMMENTS,
    strings: [/(?:u8|[uUL])?R"([^(\s]{0,16})\([\s\S]*?\)\1"/y, /(?:u8|[uUL])?"(?:\\[\s\S]|[^"\\\n])*(?:"|$|(?=\n))/y, /'(?:\\[\s\S]|[^'\\\n])+'/y],
    meta: /#[ \t]*[a-z]+(?:[ \t]*<[^>\n]*>)?/y,
    keywords: words("alignas alignof asm auto break case catch class co_await co_return co_yield concept const consteval constexpr constinit const_cast continue decltype default delete do dynamic_cast else enum explicit export extern final for friend goto if inline mutable namespace new noexcept operator override private protected public register reinterpret_cast requires return sizeof static static_assert static_cast struct switch template this throw try typedef typeid typename union using virtual volatile while"),
    constants: words("true false nullptr NULL"),
    types: words("bool char char8_t char16_t char32_t double float int long short signed unsigned void wchar_t size_t ssize_t int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t string vector"),
  },
  go: {
    comments: C_COMMENTS,
    strings: [DOUBLE, /`[^`]*(?:`|$)/y, SINGLE],
    keywords: words("break case chan const continue default defer else fallthrough for func go goto if import interface map package range return select struct switch type var"),
    constants: words("true false nil iota"),
    types: words("any bool byte comparable complex64 complex128 error float32 float64 int int8 int16 int32 int64 rune string uint uint8 uint16 uint32 uint64 uintptr"),
  },
  rust: {
    comments: C_COMMENTS,
    strings: [/b?r(#{0,8})"[\s\S]*?"\1/y, /[bc]?"(?:\\[\s\S]|[^"\\])*(?:"|$)/y, /b?'(?:\\(?:u\{[^}]*\}|[^\n])|[^'\\\n])'/y],
    meta: /#!?\[[^\]\n]*\]|'[a-z_]\w*/y,
    keywords: words("as async await break const continue crate dyn else enum extern fn for if impl in let loop match mod move mut pub ref return static struct super trait type union unsafe use where while"),
    constants: words("true false self Self None Some Ok Err"),
    types: words("bool char f32 f64 i8 i16 i32 i64 i128 isize str u8 u16 u32 u64 u128 usize String Vec Option Result Box"),
  },
  bash: {
    comments: [/(?<![^\s;(&|])#[^\n]*/y],
    strings: [/\$?"(?:\\[\s\S]|[^"\\])*(?:"|$)/y, /\$?'[^']*(?:'|$)/y],
    meta: /\$(?:\{[^}\n]*\}|\w+|[@*#?$!-])/y,
    keywords: words("if then elif else fi case esac for while until do done in function select time return exit break continue local export readonly declare unset shift set source trap eval exec"),
    constants: words("true false"),
    types: words("cd echo printf read test cat grep sed awk find ls mkdir rm cp mv chmod curl git pip python make sudo"),
  },
  json: {
    comments: C_COMMENTS,
    strings: [DOUBLE],
    keywords: words(""),
    constants: words("true false null"),
    types: words(""),
  },
  sql: {
    comments: [/--[^\n]*/y, /\/\*[\s\S]*?(?:\*\/|$)/y],
    strings: [/'(?:''|[^'])*(?:'|$)/y, /"(?:""|[^"])*(?:"|$)/y, /`[^`]*(?:`|$)/y],
    fold: true,
    keywords: words("add all alter and any as asc begin between by cascade case check column commit constraint create cross database default delete desc distinct drop else end except exists foreign from full group having if in index inner insert intersect into is join key left like limit natural not offset on or order outer over partition primary references returning right rollback select set table then transaction trigger truncate union unique update using values view when where window with"),
    constants: words("true false null"),
    types: words("bigint blob boolean char date datetime decimal double float int integer json numeric real serial smallint text time timestamp uuid varchar"),
  },
};

const ALIASES = {
  py: "python", python3: "python", pycon: "python", js: "javascript", jsx: "javascript", mjs: "javascript", ts: "javascript",
  tsx: "javascript", typescript: "javascript", node: "javascript", "c++": "c", cpp: "c", cc: "c", cxx: "c", h: "c", hpp: "c", cuda: "c",
  golang: "go", rs: "rust", sh: "bash", shell: "bash", zsh: "bash", console: "bash", jsonc: "json", json5: "json", jsonl: "json",
  mysql: "sql", postgresql: "sql", postgres: "sql", sqlite: "sql", plsql: "sql",
};

const MAX_LENGTH = 200_000; // characters; longer code stays plain

export function languageOf(name) {
  const key = ALIASES[name] ?? name;
  return Object.hasOwn(LANGUAGES, key) ? key : null;
}

export function highlight(name, code) {
  const key = languageOf(name);
  if (!key || code.length > MAX_LENGTH) return [["", code]];
  const language = LANGUAGES[key];
  const pieces = [];
  let plain = "";
  let at = 0;
  while (at < code.length) {
    const [kind, text] = next(language, code, at);
    if (kind) {
      if (plain) pieces.push(["", plain]);
      pieces.push([kind, text]);
      plain = "";
    } else {
      plain += text;
    }
    at += text.length;
  }
  if (plain) pieces.push(["", plain]);
  return pieces;
}

function next(language, code, at) {
  const found = (pattern) => match(pattern, code, at);
  for (const pattern of language.comments) {
    const text = found(pattern);
    if (text) return ["comment", text];
  }
  for (const pattern of language.strings) {
    const text = found(pattern);
    if (text) return [isKey(language, code, at + text.length) ? "property" : "string", text];
  }
  const meta = language.meta && found(language.meta);
  if (meta) return ["meta", meta];
  const name = found(NAME);
  if (name) return [kindOf(language, name, code, at + name.length), name];
  const number = /[\d.]/.test(code[at]) && found(C_NUMBER);
  if (number && /\d/.test(number)) return ["number", number];
  return ["", code[at]];
}

function match(pattern, code, at) {
  pattern.lastIndex = at;
  return pattern.exec(code)?.[0] ?? "";
}

function isKey(language, code, end) {
  return language === LANGUAGES.json && /^\s*:/.test(code.slice(end, end + 20));
}

function kindOf(language, name, code, end) {
  const word = language.fold ? name.toLowerCase() : name;
  if (language.keywords.has(word)) return "keyword";
  if (language.constants.has(word)) return "constant";
  if (language.types.has(word)) return "type";
  if (code[end] === "(" || code.startsWith("!(", end)) return "function";
  return "";
}
