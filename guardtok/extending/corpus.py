"""Short samples of ordinary text, to see whether a new token fires in them or changes how they are read."""

from __future__ import annotations

CORPUS = (
    "The quick brown fox jumps over the lazy dog. It's 5 o'clock; they'll say \"don't\" - won't they?",
    "Dear Sir or Madam,\n\nthanks for your letter of 1 March 2024 (ref. 4711/B).\r\nYours sincerely\n\n\tA. N. Other",
    "the user asked the assistant to call a tool with the new system token and to think about the end of the text",
    'def f(x: int) -> dict[str, int]:\n    """Return it."""\n    return {"a": x ** 2, \'b\': x // 3}  # TODO\n',
    "for (let i = 0; i < n && a[i] >= 0; ++i) { s += `${a[i]}\\n`; } /* <!-- --> */ #include <stdio.h>\n",
    '<html lang="en"><body class="x"><p>a &amp; b</p><br/></body></html>\n<?xml version="1.0"?><!DOCTYPE svg>',
    '{"role": "user", "content": [{"type": "text", "text": "hi"}], "n": -1.5e+10, "ok": true, "none": null}',
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n# Title\n\n* item\n1. one\n> quote\n```sh\n$ ls -la | grep x > out.txt\n```\n",
    "https://example.org/path/to?query=1&other=a%20b#part  user@example.org  C:\\Users\\x  /usr/bin/env  10.0.0.1",
    "$E = mc^2$, \\frac{1}{2} \\sum_{i=1}^{n} x_i \\le \\infty; SELECT * FROM t WHERE a <> 'b' AND c <= 1;",
    "3.14159 1,000,000 0xFF 1e-9 007 12345678901234567890 50% $9.99 №5 ½ ² 1/2 2024-01-31T23:59:59Z",
    "Größe, naïve café, œuvre, ¿qué?, İstanbul, smørrebrød, łódź, žluťoučký kůň, ﬁne ligature, ﬀ, Ångström e\u0301",
    "Съешь же ещё этих мягких французских булок. Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία.",
    "漢字とひらがなとカタカナ、全角ＡＢＣ１２３。中文没有空格，标点也不同！한국어 문장입니다.",
    "مرحبا بالعالم، هذا نص. שלום עולם. नमस्ते दुनिया। สวัสดีชาวโลก ক খ গ தமிழ் తెలుగు",
    "👩‍💻 👍🏽 🇩🇪 🎉🎉 ❤️ ☃ ∑ → ≠ … – — « » “ ” ‘ ’ • © ® ™ € £ ¥",
    "a  b   c    d\te\t\tf\n\n\ng \n h\u00a0i\u2003j\u200bk\u200dl\ufeffm\u2028n\x0bo\x0cp \r\n\r\n  \n",
    "aaaaaaaaaaaaaaaa bbbb ---- ==== ____ .... !!!! ???? (((( )))) <<<< >>>> |||| \x00\x01\x1b[0m",
    "camelCase snake_case SCREAMING_SNAKE kebab-case PascalCase __init__ x1 x_1 i18n utf-8 v1.2.3-rc.4+build",
)
"""Prose, code, markup, data, numbers, scripts, emoji, white space. None of it means to hold a control token."""
