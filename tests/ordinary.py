"""Ordinary text that looks a little like control tokens: what must not be flagged, nor encoded otherwise."""

from __future__ import annotations

ORDINARY = (
    "if a < b and b > c: x[i] = y[ j ]",
    "<table><tr><td>a | b</td></tr></table>",
    "| a | b |\n|---|:-:|\n| <|> | || |",
    "a >>PREFIX<< b",
    "<speak><s>One sentence.</s> <S>Another.</S></speak>",
    "&lt;s&gt; &lt;image&gt; &lt;/s&gt; < s > [ ref ] [prefix] [Mask]",
    "\u3053\u308c\u306f\u30c6\u30b9\u30c8\uff08\uff11\uff09\u3067\u3059\u3002\uff3b\u6ce8\uff3d\uff1c\u8868\uff1e",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e007f",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0928\u094d\u200d\u0926 \u200f(\u05d0)\u200e",
    "x <| map f <| g\ny |> h <|> z",
    "<li>\n<link>\n<img src='a%20b'>\n<% if x %>\n",
    '{"a": [\n  1, 2\n], "b": "\\u0041\\n\\/"}',
    'printf("%d %3c %25s\\n", a);  // \\u0000',
    "\u2039s\u203a and \u2039image\u203a in German quotation marks",
    "\u0915\u094d\u200d\u0937 \u0d23\u0d4d\u200d \u0dc1\u0dca\u200d\u0dbb\u0dd3 \u0645\u0650\u200c\u0646",
    '<!-- &lt;!-- --> <a href="?a=%3Cb%3E&amp;c=1">x</a>',
    "git log --format='%h <%ae> [%d]' | sed 's/[|<>]//g'",
    "| `a \\| b` | <br> |\n|:--|--:|\n| [x](y) | ![z](w) |",
    "[INFO] [2024-01-01] <user@example.org> [ tool ] [ENDPOINT] [SYSTEMD]",
    "std::vector<std::pair<int, char>> a[3]; if (x <y || z> w) {}",
)
"""Code, markup, SSML, tables, logs, escapes, scripts and emoji that need joiners, full-width text."""
