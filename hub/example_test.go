package hub_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"

	"github.com/anchorattention/anchor/hub"
)

// A model that is not in the cache is downloaded.
func ExampleClient_Pull() {
	const name = "HuggingFaceTB/SmolLM2-135M-Instruct"
	dir, err := hub.Resolve(name, "")
	if errors.Is(err, fs.ErrNotExist) {
		var client *hub.Client
		if client, err = hub.FromEnv(); err != nil {
			log.Fatal(err)
		}
		var s *hub.Snapshot
		if s, err = client.Pull(context.Background(), hub.Request{Name: name}); err == nil {
			dir = s.Dir
		}
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(dir)
}
