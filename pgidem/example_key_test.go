package pgidem_test

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/pgidem/pgidem/pgidem"
)

// An ID may be a secret that replays an answer, so logs show its hash.
func ExampleKey_String() {
	fmt.Println(pgidem.Key{Scope: "acct_42/charges", ID: "order-1"})

	// Output:
	// acct_42/charges#0bafe22156d2
}

func ExampleKey_LogValue() {
	withoutTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	logger.Info("charged", "key", pgidem.Key{Scope: "acct_42/charges", ID: "order-1"})

	// Output:
	// level=INFO msg=charged key=acct_42/charges#0bafe22156d2
}
