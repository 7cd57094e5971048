// The editor of the live course: CodeMirror with what Python needs, bundled into tinyalex/lessons/live/editor.js
// by `npm ci && npm run build`.
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { pythonLanguage } from "@codemirror/lang-python";
import { bracketMatching, HighlightStyle, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { EditorState } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.bool, tags.null], class: "k" },
  { tag: tags.comment, class: "c" },
  { tag: tags.string, class: "s" },
  { tag: tags.number, class: "m" },
  { tag: tags.function(tags.definition(tags.variableName)), class: "f" },
]);

// Put an editor into an element.  changed(): the text is another; run(): Ctrl-Enter or Shift-Enter was pressed.
export function edit(parent, text, { label, describedby, changed, run }) {
  let loud = true; // whether changes are told
  const go = () => (run(), true);
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(), history(), drawSelection(), highlightActiveLine(), indentOnInput(),
        bracketMatching(), pythonLanguage, syntaxHighlighting(colours), indentUnit.of("    "),
        keymap.of([
          { key: "Mod-Enter", run: go }, { key: "Shift-Enter", run: go },
          ...defaultKeymap, ...historyKeymap,
          indentWithTab, // Escape, then Tab leaves the editor
        ]),
        EditorView.contentAttributes.of({ "aria-label": label, "aria-describedby": describedby, tabindex: "0" }),
        EditorView.updateListener.of((update) => update.docChanged && loud && changed()),
      ],
    }),
  });
  return {
    text: () => view.state.doc.toString(),
    focus: () => view.focus(),
    // Put another text in place of all; told: whether changed() is called.  Ctrl-Z takes it back.
    replace(other, told) {
      loud = told;
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: other } });
      loud = true;
    },
  };
}
