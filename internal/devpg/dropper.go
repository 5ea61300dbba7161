package devpg

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
)

// dropBatch is how many databases of passed tests may wait to be dropped: half a gigabyte of disk.
const dropBatch = 64

// dropper drops the databases of passed tests beside the tests that still run. Each drop is a checkpoint, of which the
// first writes all that the server has in memory: one by one, they slowed the tests at work down several times.
// In batches the others find little to write, and most runs end before there is a batch.
type dropper struct {
	names chan string
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func startDropper(admin *pgxpool.Pool, size int) *dropper {
	ctx, stop := context.WithCancel(context.Background())
	d := &dropper{names: make(chan string, size), stop: stop}
	d.done.Go(func() {
		var batch []string
		for {
			select {
			case name := <-d.names:
				batch = append(batch, name)
			case <-ctx.Done():
				return
			}
			if len(batch) < size {
				continue
			}
			for _, name := range batch {
				// What fails stays for the keeper, which drops all that is left and reports it.
				_ = drop(ctx, admin, name)
			}
			batch = nil
		}
	})
	return d
}

// drop returns at once, except when a whole batch waits behind the one that is being dropped.
func (d *dropper) drop(name string) { d.names <- name }

// close leaves the databases that still wait to the keeper.
func (d *dropper) close() {
	d.stop()
	d.done.Wait()
}
