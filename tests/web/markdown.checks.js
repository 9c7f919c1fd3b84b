/** Checks of the page's markdown, evaluated in the page itself. */
async () => {
  const { Rendered } = await import("/assets/markdown.js");

  /** A mark of the first three sources is a chip. @param {number} n */
  const onMark = (n) => {
    if (n > 3) return null;
    const chip = document.createElement("button");
    chip.textContent = String(n);
    return chip;
  };

  const shown = () => {
    const element = document.createElement("div");
    document.body.append(element);
    return { element, rendered: new Rendered(element, { onMark }) };
  };

  /** The elements and attributes that an answer may consist of. */
  const ELEMENTS = new Set(
    "A BLOCKQUOTE BR BUTTON CODE DEL DIV EM H3 H4 H5 H6 HR LI OL P PRE SPAN STRONG TABLE TBODY TD TH THEAD TR UL".split(" "),
  );
  const ATTRIBUTES = new Set("aria-label class dir href rel role start style tabindex target".split(" "));

  /** What should not be in an element. @param {Element} root */
  const wrong = (root) => {
    const found = [];
    for (const element of root.querySelectorAll("*")) {
      if (!ELEMENTS.has(element.tagName)) found.push(element.outerHTML);
      for (const { name, value } of element.attributes) {
        if (!ATTRIBUTES.has(name)) found.push(`${name}=${value}`);
        if (name === "style" && !/^text-align: (left|center|right);$/.test(value)) found.push(value);
      }
      if (element instanceof HTMLAnchorElement) {
        if (!["http:", "https:", "mailto:"].includes(element.protocol)) found.push(element.href);
        if (!/^(https?:|mailto:)/.test(element.getAttribute("href") ?? "")) found.push(element.outerHTML);
        if (element.rel !== "noopener noreferrer" || element.target !== "_blank") found.push(element.outerHTML);
      }
    }
    return found;
  };

  globalThis.checks = {
    /**
     * Show a text as it grows, by one unit of UTF-16 at a time as long as it is not very long;
     * what is wrong with it at any step.
     */
    grown(text) {
      const { element, rendered } = shown();
      try {
        const step = Math.ceil(text.length / 400);
        for (let end = 1; end < text.length + step; end += step) {
          rendered.update(text.slice(0, end), { final: true });
          const found = wrong(element);
          if (found.length) return [text.slice(0, end), ...found];
        }
        return [];
      } finally {
        element.remove();
      }
    },

    /** Show texts one after another; where that differs from each of them shown at once. */
    differs(steps) {
      const { element, rendered } = shown();
      try {
        for (const text of steps) {
          rendered.update(text, { final: true });
          const whole = shown();
          whole.rendered.update(text, { final: true });
          const same = whole.element.isEqualNode(element);
          whole.element.remove();
          if (!same) return [text, whole.element.innerHTML, element.innerHTML];
        }
        return null;
      } finally {
        element.remove();
      }
    },

    /** The HTML of a text. */
    html(text) {
      const { element, rendered } = shown();
      rendered.update(text, { final: true });
      element.remove();
      return element.innerHTML;
    },

    /** Language and text of every block of code. */
    code(text) {
      const element = document.createElement("div");
      const found = [];
      const onCode = (frame, code, language) => found.push([language, code]);
      new Rendered(element, { onCode }).update(text, { final: true });
      return found.map(([language, code]) => [language, code.textContent.replace(/\n$/, "")]);
    },

    /** The parts of a text that are not left alone when it grows, except for its last item. */
    kept([begun, grown]) {
      const { element, rendered } = shown();
      rendered.update(begun, { final: true });
      const last = element.querySelector("ul > li:last-child");
      const nodes = [...element.querySelectorAll("*")].filter((node) => !last.contains(node));
      const chip = element.querySelector("button");
      chip.focus();
      getSelection().selectAllChildren(element.querySelector("li"));
      rendered.update(grown, { final: true });
      const changed = nodes.filter((node) => !element.contains(node)).map((node) => node.outerHTML);
      if (document.activeElement !== chip) changed.push("the focus");
      if (String(getSelection()).trim() !== "one") changed.push("the selection");
      element.remove();
      return changed;
    },
  };
}
