package devpg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Restartable is [Private] on a server that t may stop and start again ([Database.StopServer], [Database.StartServer]), also as a standby
// ([Database.DemoteServer]): it keeps its address, which a container does not. So it is started from binaries on this machine, and t is skipped where there are none.
func Restartable(t testing.TB) *Database {
	t.Helper()
	if _, err := readyLocal(context.Background(), nil); err != nil {
		t.Skipf("this test stops its server and starts it again, for which it needs PostgreSQL on this machine: %v", err)
	}
	return private(t, append(privateEnvironment(), envForce+"="+nameLocal))
}

// StopServer stops the server of a [Restartable] database at once, as a power failure does: no session ends in peace, and the next start
// recovers.
func (d *Database) StopServer(t testing.TB) {
	t.Helper()
	d.control(t, "stop", "--wait", "--mode=immediate")
}

// StartServer starts it again, on the same port, and returns when it takes connections.
func (d *Database) StartServer(t testing.TB) {
	t.Helper()
	config, err := pgx.ParseConfig(d.URL())
	if err != nil {
		t.Fatal(err)
	}
	d.control(t, "start", "--wait", "--options", "-p "+strconv.Itoa(int(config.Port)))
	d.server.admin.Reset() // its connections ended with the server
}

// DemoteServer makes the server of a [Restartable] database a hot standby, as a switchover does to the old primary: it has its data and its
// address as before, is in recovery, and takes connections that read. No primary sends it anything. [Database.PromoteServer], or else the
// end of t, makes it a primary again.
func (d *Database) DemoteServer(t testing.TB) {
	t.Helper()
	as, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	d.control(t, "stop", "--wait", "--mode=fast")
	signal := filepath.Join((&cluster{folder: d.server.Holder}).data(), "standby.signal")
	if err := errors.Join(os.WriteFile(signal, nil, 0o600), as.own(signal)); err != nil {
		t.Fatal(err)
	}
	d.StartServer(t)
	t.Cleanup(func() { d.PromoteServer(t) }) // its database could not be dropped
}

// PromoteServer makes the server a primary, and returns when it takes writes. It may be called when it is one.
func (d *Database) PromoteServer(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startBound)
	defer cancel()
	var promoted bool
	err := d.server.admin.QueryRow(ctx, "SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote() ELSE true END").Scan(&promoted)
	if err != nil || !promoted {
		t.Fatalf("the standby was not promoted: %v", err)
	}
}

func (d *Database) control(t testing.TB, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startBound)
	defer cancel()
	as, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := findBinaries()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{bin, d.server.Holder, as}
	if err := c.run(ctx, "pg_ctl", append(args, "--pgdata", c.data(), "--log", c.log())...); err != nil {
		t.Fatal(err)
	}
}
