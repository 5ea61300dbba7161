package devpg

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// standbyBound is for what a server or a standby does within moments.
const standbyBound = time.Minute

// Standby is the synchronous standby of a private server: while it is away, every COMMIT of the server waits for it.
type Standby struct {
	t      testing.TB
	server *Server
	// name is what synchronous_standby_names says; empty where the standby is none that could ever come.
	name string
	// gone is closed when the receiver's program has ended; failed then says why.
	gone   chan struct{}
	failed error
}

// AbsentStandby names a standby that does not exist: while it is away nobody answers, and its return is the end of
// the setting. It begins present: nothing waits yet.
func (d *Database) AbsentStandby(t testing.TB) *Standby {
	t.Helper()
	s := &Standby{t: t, server: d.server}
	t.Cleanup(s.Return)
	return s
}

// Receiver starts pg_receivewal --synchronous, on the host of the server, as the synchronous standby. It keeps what it
// gets as a standby does but applies nothing, so a COMMIT with remote_apply would wait for ever. It begins present.
func (d *Database) Receiver(t testing.TB) *Standby {
	t.Helper()
	s := &Standby{t: t, server: d.server, name: "pgidem_receiver"}
	s.Return()
	s.configure(s.name)
	t.Cleanup(func() {
		s.configure("")
		s.stop()
	})
	s.await("the standby is synchronous", `SELECT count(*) = 1 FROM pg_stat_replication
		WHERE application_name = $1 AND state = 'streaming' AND sync_state = 'sync'`, s.name)
	return s
}

// Leave takes the standby away, and returns when a COMMIT has been seen to wait for it.
func (s *Standby) Leave() {
	s.t.Helper()
	if s.name == "" {
		s.configure("pgidem_nobody")
	} else {
		s.stop()
	}
	s.seeWait()
}

// Return brings the standby back: the COMMITs that wait go on. It may be called when the standby is there.
func (s *Standby) Return() {
	s.t.Helper()
	switch {
	case s.name == "":
		s.configure("")
	case s.gone == nil:
		s.start()
	}
}

func (s *Standby) configure(names string) {
	s.t.Helper()
	s.exec("ALTER SYSTEM SET synchronous_standby_names = " + literal(names))
	s.exec("SELECT pg_reload_conf()")
}

// start runs the receiver as the server's own child, which serves both a container and a local server, and ends with it.
func (s *Standby) start() {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), s.server.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	var bin, data, port string
	err = conn.QueryRow(context.Background(), `SELECT (SELECT setting FROM pg_config() WHERE name = 'BINDIR'),
		current_setting('data_directory'), inet_server_port()::text`).Scan(&bin, &data, &port)
	if err != nil {
		s.t.Fatal(err)
	}
	command := fmt.Sprintf("mkdir -p %[2]s/receiver && exec env PGAPPNAME=%[3]s PGPASSWORD=%[4]s "+
		"%[1]s/pg_receivewal --synchronous --no-loop --no-password -h 127.0.0.1 -p %[5]s -U %[6]s -D %[2]s/receiver",
		bin, data, s.name, conn.Config().Password, port, conn.Config().User)
	s.gone = make(chan struct{})
	go func() {
		defer close(s.gone)
		_, s.failed = conn.Exec(context.Background(), "COPY (SELECT 1 WHERE false) TO PROGRAM "+literal(command))
		_ = conn.Close(context.Background())
	}()
	s.await("the receiver streams", "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'", s.name)
}

// stop ends the receiver, which does not come back by itself.
func (s *Standby) stop() {
	s.t.Helper()
	if s.gone == nil {
		return
	}
	s.exec("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_replication WHERE application_name = $1", s.name)
	<-s.gone
	s.gone = nil
}

// seeWait commits until a COMMIT waits: a backend may see a new setting before those that count do.
func (s *Standby) seeWait() {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), s.server.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	pid := conn.PgConn().PID()
	for {
		answered := make(chan error, 1)
		go func() {
			_, err := conn.Exec(context.Background(), "SELECT pg_logical_emit_message(true, 'devpg', 'does this wait?')")
			answered <- err
		}()
		var err error
		s.poll("a COMMIT has been answered or waits", func() bool {
			select {
			case err = <-answered:
				return true
			default:
				return s.holds("SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1", pid)
			}
		})
		if err != nil {
			s.t.Fatal(err)
		}
		if s.holds("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'", pid) {
			if err := <-answered; err != nil { // a warning is all that the server says
				s.t.Fatal(err)
			}
			return
		}
	}
}

func (s *Standby) await(what, sql string, args ...any) {
	s.t.Helper()
	s.poll(what, func() bool {
		select {
		case <-s.gone:
			s.t.Fatalf("pg_receivewal, which must be installed beside the server, has ended: %v", s.failed)
		default:
		}
		return s.holds(sql, args...)
	})
}

// poll asks until it holds: the server tells nobody.
func (s *Standby) poll(what string, holds func() bool) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(standbyBound)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("not within %v: %s", standbyBound, what)
		}
	}
}

// holds is false also where there is no row.
func (s *Standby) holds(sql string, args ...any) bool {
	s.t.Helper()
	rows, err := s.server.admin.Query(context.Background(), sql, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[*bool])
	if err != nil {
		s.t.Fatal(err)
	}
	return len(found) == 1 && found[0] != nil && *found[0]
}

func (s *Standby) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.server.admin.Exec(context.Background(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
