// Command devpg gets a PostgreSQL for the commands of a Makefile or a CI job.
//
//	devpg exec -- go test ./...   runs a command with PGIDEM_DATABASE_URL set to one server, and stops the server
//	devpg ensure                  checks that a server can be had here; says (and as root runs) what installs one
//
// Exit codes: exec returns the command's, or 1 when no server could be had; ensure returns 0 or 1; 2 means wrong usage.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/pgidem/pgidem/internal/devpg"
)

const usage = `usage:
  devpg exec -- command [argument ...]
  devpg ensure
`

func main() { os.Exit(run(context.Background(), os.Args[1:])) }

func run(ctx context.Context, args []string) int {
	switch {
	case len(args) >= 3 && args[0] == "exec" && args[1] == "--":
		code, err := devpg.Exec(ctx, args[2:])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return max(code, 1)
		}
		return code
	case len(args) == 1 && args[0] == "ensure":
		found, err := devpg.Ensure(ctx, func(text string) { fmt.Fprintln(os.Stderr, "PostgreSQL:", text) })
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println("PostgreSQL:", found)
		return 0
	}
	fmt.Fprint(os.Stderr, usage)
	return 2
}
