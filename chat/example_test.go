package chat_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/anchorattention/anchor/chat"
)

// A program calls chat.Main first thing in main. The template is one as GGUF files carry it; that of a directory is had by
// chat.Load.
func ExampleTemplate_Render() {
	t := chat.Template{
		Source: `{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}
{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`,
		Tokens: map[string]string{"bos_token": "<s>"},
		Limits: chat.Limits{Time: time.Minute},
	}
	prompt, err := t.Render(context.Background(), chat.Input{
		Messages: []chat.Message{
			{Role: "system", Content: "Be brief."},
			{Role: "user", Content: " Who wrote War and Peace? "},
		},
		AddGenerationPrompt: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(prompt)
	// Output:
	// <s>[system] Be brief.
	// [user] Who wrote War and Peace?
	// [assistant]
}

// What a template does to the process stays in the child.
func ExampleTemplate_Render_hostile() {
	t := chat.Template{
		Name:   "chat_template.jinja",
		Source: `{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}`,
		Limits: chat.Limits{Time: time.Minute},
	}
	_, err := t.Render(context.Background(), chat.Input{})
	fmt.Println(err)
	// Output:
	// chat_template.jinja: recurses without end
}
