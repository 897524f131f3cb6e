// Package chat turns the messages of a conversation into the prompt a model
// was trained on, by the Jinja template that comes with the model.
//
//	t, err := chat.Load(dir)     // or &chat.Template{Source: …} with what a GGUF file says
//	prompt, err := t.Render(ctx, chat.Input{
//		Messages:            []chat.Message{{Role: "user", Content: "Hello"}},
//		AddGenerationPrompt: true,
//	})
//
// Variables, functions and white space are those that Hugging Face's
// apply_chat_template gives a template.
//
// # Confinement
//
// A template is a program from a stranger. It may recurse until the stack
// overflows, which nothing in Go recovers from, loop for hours, or ask for more
// memory than there is. So it runs in a child process, which limits of time,
// memory and output bound ([Limits]), and whatever happens there is an error
// here. The child is the program itself, started anew; so a program that
// renders must call [Main] first thing in its main function, and tests in
// TestMain:
//
//	func main() {
//		chat.Main()
//		…
//	}
//
// Nothing but the template and its input reaches the child: no environment, no
// open files. On Linux the kernel bounds its memory; elsewhere it watches itself,
// some hundred times a second. Templates have no way to read files or to include others. The
// child is bounded, not walled off by the operating system: should the
// template engine itself be made to run foreign code, it has the rights of the
// user.
//
// # Tokenizing the prompt
//
// The prompt has every token that the model wants, that of its beginning too: it
// is to be tokenized without another one put in front.
//
// Special tokens in the prompt are text: whoever tokenizes it must have special tokens recognised, and cannot tell those of the template
// from those that a message's content spells. A stranger's content may so end
// its own turn and begin one in another's name, as with Hugging Face's
// apply_chat_template. [Template.Render] passes content on as it stands. Who
// renders content of strangers can look for the tokenizer's special tokens in
// it first and refuse it, or break their spelling.
//
// # What is not as in Python
//
// Most templates that models are published with render byte for byte as in
// Python's Jinja2. What the engine cannot do is an error that names it, with
// these exceptions:
//   - an attribute of something undefined is undefined rather than an error;
//   - + and ~ with a text take what is no text as its spelling, none and
//     undefined as nothing, and 1.0 as 1;
//   - texts that spell numbers are compared as numbers; true is not 1;
//   - a tuple prints as a list;
//   - integers have 64 bits, are divided towards 0, and by 0 give 0;
//   - text that is not UTF-8 has U+FFFD in place of what is wrong with it.
package chat
