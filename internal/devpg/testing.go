package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	// serverBound includes a minute for an image's download.
	serverBound = 3 * time.Minute
	// databaseBound is far above what a busy machine takes.
	databaseBound = time.Minute
)

// shared is the server of the tests of this process: started by the first that needs it, stopped by Main.
var shared struct {
	sync.Mutex
	inMain bool
	server *Server
	err    error
}

// Main runs a package's tests and exits; it is the whole of TestMain. The first [New], [Empty] or [Shared] starts one server
// for all of them. When tests succeeded and the server is gone, it fails the run if goroutines are left.
func Main(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	shared.Lock()
	shared.inMain = true
	shared.Unlock()

	code := m.Run()

	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		if err := shared.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if code == 0 {
		// No goroutine is exempt: what needs an exception would have to be named here, with its reason.
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "devpg: the tests passed, but left goroutines:", err)
			code = 1
		}
	}
	return code
}

// Shared returns the server that all tests of this process share; for testable examples, which have no t for [New]. It is
// started by the first call, within three minutes or not at all: no caller's context ends what the others wait for.
// Do not close it: [Main] does, and it takes the databases with it. Errors are that of [Start] for the first caller, for all
// others that there was one, and that the package's TestMain does not call Main.
func Shared() (*Server, error) {
	shared.Lock()
	defer shared.Unlock()
	switch {
	case !shared.inMain:
		return nil, errors.New("devpg: this package needs func TestMain(m *testing.M) { devpg.Main(m) }, which stops the server")
	case shared.err != nil:
		return nil, errors.New("devpg: no PostgreSQL, see the first failure")
	case shared.server == nil:
		ctx, cancel := context.WithTimeout(context.Background(), serverBound)
		defer cancel()
		shared.server, shared.err = Start(ctx)
	}
	return shared.server, shared.err
}

func sharedServer(t testing.TB) *Server {
	t.Helper()
	server, err := Shared()
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// New gives t a database of its own with pgidem's schema. When t ends, it fails if somebody is still connected
// to the database, or if the view idempotency_illegal_rows is not empty. The database of a test that failed is kept
// (where devpg started the server: with PGIDEM_KEEP=1) and t's log says how to connect to it; otherwise it is dropped.
func New(t testing.TB) *Database {
	t.Helper()
	return newDatabase(t, (*Server).NewDatabase, checkPooler, checkConnections, checkRows)
}

// Empty is New without the schema, for tests of migrations; it does not look for illegal rows either.
func Empty(t testing.TB) *Database {
	t.Helper()
	create := func(s *Server, ctx context.Context) (*Database, error) { return s.create(ctx, "template0") }
	return newDatabase(t, create, checkPooler, checkConnections)
}

// check is something that has to hold for a database when its test ends.
type check func(context.Context, *Database) error

func newDatabase(t testing.TB, create func(*Server, context.Context) (*Database, error), checks ...check) *Database {
	t.Helper()
	server := sharedServer(t)
	ctx, cancel := context.WithTimeout(context.Background(), databaseBound)
	defer cancel()
	db, err := create(server, ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), databaseBound)
		defer cancel()
		for _, check := range checks {
			if err := check(ctx, db); err != nil {
				t.Error(err)
			}
		}
		db.finish(ctx, t)
	})
	return db
}
