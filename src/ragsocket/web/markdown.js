/**
 * Shows an answer's markdown while it is written.
 *
 * What is shown depends on the text alone and not on the steps in which it came. A step touches
 * only what changed: blocks that are finished are not even read again, and of the last one only
 * the item, row or piece that grows is made anew, so selection and focus elsewhere stay.
 *
 * The dialect is GitHub's without what a model should not have: HTML is shown as it was written,
 * images become links, links lead to http, https and mailto, and there are no reference
 * definitions, which would change blocks far above them. Text becomes elements in one place,
 * `#inline`, and only by way of the sanitiser.
 */

import { Lexer, Parser, Renderer, Tokenizer, getDefaults } from "./vendor/marked.esm.js";
import DOMPurify from "./vendor/purify.es.mjs";

/** @import { Token, Tokens } from "./vendor/marked.esm.js" */

/** Lists and quotes within each other; what is deeper is shown as text. */
const DEEPEST = 12;
/** Characters of a paragraph that are rendered at once; a longer one is made of pieces. */
const PIECE = 2048;
/** Lines of code that are laid out together, or a piece of one that is too long for that. */
const CODE_PIECE = /(?:[^\n]{0,2047}\n){1,64}|[^\n]{1,2048}\n?/g;
/** A frame that takes longer than this is followed by a rest of three times its length. */
const EXPENSIVE_MS = 10;
const REST = 4;

const MARK = /[[【]([\d,; ]*\d[\d,; ]*)[\]】]/g;
const MARK_HERE = /^\[[\d,; ]*\d[\d,; ]*\]/;
const LINK = /^(?:https?|mailto):/i;
const CLEAN = {
  ALLOWED_TAGS: ["a", "br", "cite", "code", "del", "em", "strong"],
  ALLOWED_ATTR: ["href"],
  ALLOWED_URI_REGEXP: LINK,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

/** @param {string} text */
const escape = (text) =>
  text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

/**
 * Return the address that a link may lead to, or "".
 * @param {string} href
 */
const allowed = (href) => {
  const url = LINK.test(href) && URL.parse(href);
  return url && LINK.test(url.protocol) ? url.href : "";
};

/** Blocks and inline parts: GitHub's, less what the head of this file says. */
class Dialect extends Tokenizer {
  #depth = 0;

  /** @override @param {string} src */
  blockquote(src) {
    return this.#deeper(() => super.blockquote(src));
  }

  /** @override @param {string} src */
  list(src) {
    return this.#deeper(() => super.list(src));
  }

  /** @override */
  html() {
    return undefined;
  }

  /** @override */
  def() {
    return undefined;
  }

  /** @override */
  tag() {
    return undefined;
  }

  /** @override @param {string} src @returns {Tokens.Text | undefined} */
  reflink(src) {
    if (!src.startsWith("[")) return undefined;
    const raw = MARK_HERE.exec(src)?.[0] ?? "[";
    return { type: "text", raw, text: raw };
  }

  /** @template T @param {() => T} read */
  #deeper(read) {
    if (this.#depth >= DEEPEST) return undefined;
    this.#depth += 1;
    try {
      return read();
    } finally {
      this.#depth -= 1;
    }
  }
}

/** What stands within a block, as HTML; a mark becomes a `cite` that holds its numbers. */
class Inline extends Renderer {
  #inLink = false;

  /** @override @param {Tokens.Text | Tokens.Escape} token */
  text(token) {
    return token.type === "escape"
      ? escape(token.text)
      : super.text(token).replace(MARK, "<cite>$&</cite>");
  }

  /** @override @param {Tokens.Link} token */
  link({ href, text, tokens, autolink }) {
    const before = this.#inLink;
    this.#inLink = true;
    const shown = autolink ? escape(text) : this.parser.parseInline(tokens);
    this.#inLink = before;
    return this.#to(href, shown);
  }

  /** @override @param {Tokens.Image} token */
  image({ href, text }) {
    return this.#to(href, escape(text || href));
  }

  /** @override @param {Tokens.Tag | Tokens.HTML} token */
  html({ text }) {
    return escape(text);
  }

  /** @param {string} href @param {string} shown */
  #to(href, shown) {
    const address = this.#inLink ? "" : allowed(href);
    // References within an address are resolved by the parser of HTML, once.
    return address ? `<a href="${address.replace(/["<>]/g, escape)}">${shown}</a>` : shown;
  }
}

const options = { ...getDefaults(), tokenizer: new Dialect(), renderer: new Inline() };

/**
 * What a part of the text should look like.
 * @typedef {object} Part
 * @property {string} shape parts of one shape can be made from one another
 * @property {string} source together with the shape, all that its look depends on
 * @property {() => {node: Element, into?: Element}} make its element, and what its parts go into
 * @property {() => Part[]} [parts] what it holds
 * @property {(node: Element) => void} [adjust] brings an element that is kept up to date
 */

/**
 * What is there for a part.
 * @typedef {{shape: string, source: string, node: Element, into: Element, kept: Kept[]}} Kept
 */

/**
 * @typedef {object} Hooks
 * @property {(n: number) => Element | null} [onMark] Called for every number of a mark (`[n]`,
 *   `[n, m]`, `【n】`) outside code; returns what stands in its place, or null to leave it as text.
 * @property {(frame: HTMLElement, code: HTMLElement, language: string) => void} [onCode] Called for
 *   every new block of code, to add what it likes to `frame` beside `code`'s `pre`. The code is the
 *   `textContent` of `code`, whenever it is asked for.
 */

/** One text, shown in one element. */
export class Rendered {
  #element;
  #hooks;
  #text = "";
  /** Where the last block begins, and what stands for it; what is before is finished. */
  #start = 0;
  /** @type {Kept[]} */
  #kept = [];
  /** Depth of the last heading before that. */
  #depth = 0;
  #frame = 0;
  #rest = 0;

  /**
   * @param {HTMLElement} element filled with the text, and with nothing else
   * @param {Hooks} [hooks]
   */
  constructor(element, hooks = {}) {
    this.#element = element;
    this.#hooks = hooks;
    element.classList.add("rendered");
  }

  /**
   * Show the whole text as it is now, at most once in a frame: call it for every delta. A text
   * that does not go on from the last one is as welcome.
   * @param {string} text
   * @param {{final?: boolean}} [options] `final`: nothing follows; shown before this returns
   */
  update(text, { final = false } = {}) {
    const shown = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
    if (!shown.startsWith(this.#text)) this.#reset();
    this.#text = shown;
    if (final) {
      cancelAnimationFrame(this.#frame);
      this.#frame = 0;
      this.#render();
    } else if (!this.#frame) {
      this.#frame = requestAnimationFrame(this.#draw);
    }
  }

  #draw = () => {
    const began = performance.now();
    if (began < this.#rest) {
      this.#frame = requestAnimationFrame(this.#draw);
      return;
    }
    this.#frame = 0;
    this.#render();
    // Runs when the browser has laid out and painted what was rendered.
    setTimeout(() => {
      const took = performance.now() - began;
      this.#rest = took > EXPENSIVE_MS ? began + took * REST : 0;
    });
  };

  #reset() {
    this.#start = 0;
    this.#kept = [];
    this.#depth = 0;
    this.#element.replaceChildren();
  }

  #render() {
    const tokens = this.#blocks(this.#text.slice(this.#start));
    outline(tokens, this.#depth);
    this.#kept = this.#match(this.#element, this.#kept, this.#parts(tokens));
    this.#finish(tokens);
  }

  /** Leave behind every block that no text to come can change. @param {Token[]} tokens */
  #finish(tokens) {
    let [finished, start, at] = [0, this.#start, this.#start];
    let blocks = 0;
    for (const token of tokens) {
      if (token.type !== "space") {
        // What begins a block is decided by two lines at most: a table's first ones.
        const line = this.#text.indexOf("\n", at);
        if (line < 0 || this.#text.indexOf("\n", line + 1) < 0) break;
        [finished, start] = [blocks, at];
        blocks += 1;
      }
      at += token.raw.length;
    }
    if (finished) {
      const before = tokens.filter(({ type }) => type !== "space").slice(0, finished);
      this.#depth = outline(before, this.#depth);
      this.#kept = this.#kept.slice(finished);
      this.#start = start;
    }
  }

  /** @param {string} text @returns {Token[]} */
  #blocks(text) {
    try {
      return new Lexer(options).blockTokens(text, []);
    } catch {
      return [{ type: "paragraph", raw: text, text, tokens: [] }];
    }
  }

  /**
   * Make `into` hold these parts, from what it holds already.
   * @param {Element} into
   * @param {Kept[]} kept
   * @param {Part[]} parts
   * @returns {Kept[]}
   */
  #match(into, kept, parts) {
    const now = parts.map((part, n) => {
      const was = kept[n];
      if (was?.shape === part.shape) {
        part.adjust?.(was.node);
        if (was.source === part.source) return was;
        if (part.parts) {
          was.kept = this.#match(was.into, was.kept, part.parts());
          was.source = part.source;
          return was;
        }
      }
      const { node, into: inner = node } = part.make();
      part.adjust?.(node);
      const { shape, source } = part;
      const inside = part.parts ? this.#match(inner, [], part.parts()) : [];
      if (was) was.node.replaceWith(node);
      else into.append(node);
      return { shape, source, node, into: inner, kept: inside };
    });
    for (const gone of kept.slice(parts.length)) gone.node.remove();
    return now;
  }

  /**
   * @param {Token[]} tokens
   * @param {boolean} [top] those of the text itself, each with a direction of its own
   * @returns {Part[]}
   */
  #parts(tokens, top = true) {
    return tokens.flatMap((token) => {
      const part = this.#part(/** @type {any} */ (token));
      if (!part) return [];
      if (top && !part.shape.startsWith("code")) {
        const make = part.make;
        part.make = () => {
          const made = make();
          made.node.setAttribute("dir", "auto");
          return made;
        };
      }
      return [part];
    });
  }

  /** @param {any} token @returns {Part | null} */
  #part(token) {
    switch (token.type) {
      case "heading":
        return this.#lines(`h${Math.min(token.depth + 2, 6)}`, token.text);
      case "paragraph":
      case "text":
        return this.#lines("p", token.text);
      case "code":
        return this.#code(token);
      case "hr":
        return { shape: "hr", source: "", make: () => ({ node: made("hr") }) };
      case "blockquote":
        return {
          shape: "blockquote",
          source: token.raw,
          make: () => ({ node: made("blockquote") }),
          parts: () => this.#parts(token.tokens, false),
        };
      case "list":
        return this.#list(token);
      case "table":
        return this.#table(token);
      default:
        return null;
    }
  }

  /** @param {string} name @param {string} text @returns {Part} */
  #lines(name, text) {
    if (text.length <= PIECE) {
      const make = () => ({ node: this.#inline(made(name), text) });
      return { shape: name, source: text, make };
    }
    const piece = (/** @type {string} */ source) => ({
      shape: "piece",
      source,
      make: () => ({ node: this.#inline(made("span"), source) }),
    });
    return {
      shape: `${name} in pieces`,
      source: text,
      make: () => ({ node: made(name) }),
      parts: () => pieces(text).map(piece),
    };
  }

  /** @param {Tokens.Code} token @returns {Part} */
  #code({ text, lang }) {
    const language = lang?.match(/^[\w+#.-]+/)?.[0] ?? "";
    return {
      shape: `code ${language}`,
      source: text,
      make: () => {
        const [frame, pre, code] = [made("div"), made("pre"), made("code")];
        frame.className = "code";
        frame.dir = "ltr";
        // It may be wider than the page, and whoever has no mouse scrolls it as well.
        pre.tabIndex = 0;
        pre.append(code);
        frame.append(pre);
        this.#hooks.onCode?.(frame, code, language);
        return { node: frame, into: code };
      },
      parts: () => {
        let whole = true;
        return (text.match(CODE_PIECE) ?? []).map((source) => {
          const began = whole;
          whole = source.endsWith("\n");
          const name = began && whole ? "lines" : "";
          const make = () => {
            const node = made("span");
            if (name) node.className = name;
            node.textContent = source;
            return { node };
          };
          return { shape: `piece ${name}`, source, make };
        });
      },
    };
  }

  /** @param {Tokens.List} token @returns {Part} */
  #list({ ordered, start, loose, items, raw }) {
    return {
      shape: ordered ? `ol ${start}` : "ul",
      source: raw,
      make: () => {
        const node = made(ordered ? "ol" : "ul");
        if (ordered && start !== 1) node.setAttribute("start", `${start}`);
        return { node };
      },
      adjust: (node) => {
        if (loose) node.className = "loose";
        else node.removeAttribute("class");
      },
      parts: () => items.map((item) => this.#item(item)),
    };
  }

  /** @param {Tokens.ListItem} item @returns {Part} */
  #item({ task, checked, tokens, text }) {
    return {
      shape: task ? `task ${checked}` : "li",
      source: text,
      make: () => {
        const node = made("li");
        if (!task) return { node };
        const [box, into] = [made("span"), made("div")];
        node.className = "task";
        box.textContent = checked ? "☑" : "☐";
        box.setAttribute("role", "img");
        box.setAttribute("aria-label", checked ? "done" : "to do");
        node.append(box, into);
        return { node, into };
      },
      parts: () => this.#parts(task ? tokens.map(withoutBox) : tokens, false),
    };
  }

  /** @param {Tokens.Table} table @returns {Part} */
  #table({ header, rows, raw }) {
    const row = (/** @type {Tokens.TableCell[]} */ cells) => {
      const node = made("tr");
      for (const { text, align, header } of cells) {
        const cell = this.#inline(made(header ? "th" : "td"), text);
        if (align) cell.style.textAlign = align;
        node.append(cell);
      }
      return node;
    };
    const source = (/** @type {Tokens.TableCell[]} */ cells) =>
      cells.map(({ text, align }) => `${align} ${text}`).join("\n");
    return {
      shape: `table ${source(header)}`,
      source: raw,
      make: () => {
        const [frame, table, head, into] =
          [made("div"), made("table"), made("thead"), made("tbody")];
        frame.className = "table";
        frame.tabIndex = 0;
        head.append(row(header));
        table.append(head, into);
        frame.append(table);
        return { node: frame, into };
      },
      parts: () =>
        rows.map((cells) => ({
          shape: "tr",
          source: source(cells),
          make: () => ({ node: row(cells) }),
        })),
    };
  }

  /**
   * Fill an element with text and what is marked up in it.
   * @template {HTMLElement} E
   * @param {E} element
   * @param {string} text
   */
  #inline(element, text) {
    let html;
    try {
      html = new Parser(options).parseInline(new Lexer(options).inlineTokens(text));
    } catch {
      html = escape(text);
    }
    if (!/[<&]/.test(html)) {
      element.append(html);
      return element;
    }
    const clean = /** @type {DocumentFragment} */ (
      /** @type {unknown} */ (DOMPurify.sanitize(html, CLEAN))
    );
    for (const link of clean.querySelectorAll("a")) {
      link.rel = "noopener noreferrer";
      link.target = "_blank";
    }
    for (const cite of clean.querySelectorAll("cite")) {
      const shown = this.#marks(cite.textContent);
      const link = cite.closest("a");
      if (!link) cite.replaceWith(...(shown ?? [cite.textContent]));
      // Nothing that can be pressed stands within something else that can be.
      else if (shown && link.textContent === cite.textContent) link.replaceWith(...shown);
      else cite.replaceWith(cite.textContent);
    }
    for (const link of clean.querySelectorAll("a")) {
      const shown = /^\d{1,4}$/.test(link.textContent) && this.#marks(link.textContent);
      if (shown) link.replaceWith(...shown);
    }
    clean.normalize();
    element.append(clean);
    return element;
  }

  /** What stands for a mark, or null if its numbers mean nothing. @param {string} mark */
  #marks(mark) {
    const numbers = [...new Set(mark.match(/\d+/g))].map(Number);
    const found = numbers.flatMap((n) => this.#hooks.onMark?.(n) ?? []);
    return found.length ? found : null;
  }
}

/** @template {keyof HTMLElementTagNameMap} N @param {N | string} name */
function made(name) {
  return /** @type {HTMLElementTagNameMap[N]} */ (document.createElement(name));
}

/**
 * Let no heading be more than one step deeper than the one before it, so that whoever goes from
 * heading to heading misses none.
 * @param {any[]} tokens
 * @param {number} depth of the last heading before them
 * @returns {number} of the last one in them
 */
function outline(tokens, depth) {
  for (const token of tokens) {
    if (token.type === "heading") depth = token.depth = Math.min(token.depth, depth + 1);
    else depth = outline(token.tokens ?? token.items ?? [], depth);
  }
  return depth;
}

/** The same block without the box of a task. @param {any} token @param {number} n */
function withoutBox(token, n) {
  if (n || token.tokens?.[0]?.type !== "checkbox") return token;
  return { ...token, text: token.text.slice(token.tokens[0].raw.length) };
}

/** Cut a long paragraph where a sentence or at least a word ends. @param {string} text */
function pieces(text) {
  const found = [];
  let start = 0;
  while (text.length - start > PIECE) {
    const window = text.slice(start + PIECE / 2, start + PIECE);
    const end = Math.max(window.lastIndexOf(". ") + 1, window.lastIndexOf("\n")) ||
      window.lastIndexOf(" ");
    const cut = start + (end > 0 ? PIECE / 2 + end + 1 : PIECE);
    found.push(text.slice(start, cut));
    start = cut;
  }
  found.push(text.slice(start));
  return found;
}
