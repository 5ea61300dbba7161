package pgidem

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// 256 callers of one key in each of two processes of the operating system. The first to have it finishes, and everybody
// in both gets its result; or it is killed with all its callers in the middle, and one of the others' runs the key at once.
func TestContentionTwoProcesses(t *testing.T) {
	for name, killed := range map[string]bool{"Finishes": false, "Killed": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(patience))
			callers := crowd(256)
			holder := b.startHolder(callers)
			var answers []<-chan answer[string]
			for range callers {
				answers = append(answers, b.call(b.client, b.key, "second"))
			}
			b.joined(callers - 1)
			b.lockAwaited("this process waits for the other one with one connection", 1)
			b.wantState("")

			want, fresh := "first", 0
			if killed {
				want, fresh = "second", 1
				b.must(nil, holder.process.Process.Kill())
			} else if report := holder.finish(); report.Fresh != 1 || report.Results["first"] != callers {
				b.Errorf("the other process reports %+v, want %d times its own result", report, callers)
			}
			for _, answers := range answers {
				a := answered(b, answers)
				b.wantResult(a.Result, a.err, want, a.Replayed)
				if !a.Replayed {
					fresh--
				}
			}
			if fresh != 0 {
				b.Errorf("this process has %d callers too few that ran the key", fresh)
			}
			b.wantEffects(1)
			b.wantState(stateSucceeded)
			b.wantNoLocks()
			b.until("no connection of the other process is left",
				"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()", holderName)
		})
	}
}

// holderTask is what another process is started for: it runs one key until it is told to finish.
type holderTask struct {
	URL     string
	Key     Key
	Callers int
}

// holderReport is what its callers got.
type holderReport struct {
	Fresh   int
	Results map[string]int
	Errors  []string
}

const (
	holderEnv  = "PGIDEM_TEST_HOLDER"
	holderName = "pgidem holder"
)

// The test binary is also the other process.
func init() {
	text := os.Getenv(holderEnv)
	if text == "" {
		return
	}
	var task holderTask
	report := holderReport{Results: map[string]int{}}
	err := json.Unmarshal([]byte(text), &task)
	if err == nil {
		err = task.hold(&report)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(report)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (task holderTask) hold(report *holderReport) error {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(task.URL)
	if err != nil {
		return err
	}
	config.ConnConfig.RuntimeParams["application_name"] = holderName
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	var patient Config
	patience(&patient)
	client, err := New(pool, patient)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range task.Callers {
		callers.Go(func() {
			got, err := DoTx(ctx, client, task.Key, func(ctx context.Context, tx Tx) (string, error) {
				_, err := tx.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", task.Key.ID)
				for waiters(client, task.Key) < task.Callers-1 {
					runtime.Gosched()
				}
				fmt.Println("holding")
				_, readErr := bufio.NewReader(os.Stdin).ReadString('\n')
				return "first", errors.Join(err, readErr)
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				report.Errors = append(report.Errors, err.Error())
				return
			}
			report.Results[got.Value]++
			if !got.Replayed {
				report.Fresh++
			}
		})
	}
	callers.Wait()
	return nil
}

// holder is the other process as the test sees it.
type holder struct {
	b       *bundle
	process *exec.Cmd
	stdin   io.Writer
	stdout  *bufio.Reader
}

// startHolder returns when the other process runs the key, and all its other callers wait for that.
func (b *bundle) startHolder(callers int) *holder {
	b.Helper()
	task, err := json.Marshal(holderTask{URL: b.db.URL(), Key: b.key, Callers: callers})
	b.must(task, err)
	self, err := os.Executable()
	b.must(self, err)
	alive, cancel := context.WithTimeout(b.Context(), time.Minute) // not for ever, whatever goes wrong in it
	b.Cleanup(cancel)
	h := &holder{b: b, process: exec.CommandContext(alive, self)}
	h.process.Env = slices.Concat(os.Environ(), []string{holderEnv + "=" + string(task)})
	h.process.Stderr = os.Stderr
	stdin, err := h.process.StdinPipe()
	b.must(stdin, err)
	stdout, err := h.process.StdoutPipe()
	b.must(stdout, err)
	h.stdin, h.stdout = stdin, bufio.NewReader(stdout)
	b.must(nil, h.process.Start())
	b.Cleanup(func() { _ = h.process.Wait() }) // its context has ended by then
	if line, err := h.stdout.ReadString('\n'); line != "holding\n" {
		b.Fatalf("the other process does not hold the key: %q, %v", line, err)
	}
	return h
}

// finish lets the other process go on and returns its report.
func (h *holder) finish() (report holderReport) {
	h.b.Helper()
	_, err := io.WriteString(h.stdin, "\n")
	h.b.must(nil, errors.Join(err, json.NewDecoder(h.stdout).Decode(&report)))
	return report
}
