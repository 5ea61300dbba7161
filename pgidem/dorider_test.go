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
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// riderTask is what another process is started for: it goes on a journey.
type riderTask struct {
	URL, BookURL string
	LivenessDSN  string
	Key          Key
	Who          string
	Itinerary    string
	Callers      int    // 0: one
	Waits        bool   // says "waiting" when all its callers but one wait in memory
	StopAt       string // the place of a body where it says so and waits for a line
	KillAt       int    // the numbered point at which it kills itself; negative: it only counts them
	EndsOnTerm   bool   // closes its client on SIGTERM, in no time, and ends
}

// riderReport is what came of it.
type riderReport struct {
	Fresh   int
	Attempt int
	Results map[string]int
	Errors  []string
	Points  int
	Closed  string // what Close returned, where that was an error
}

const riderEnv = "PGIDEM_TEST_RIDER"

// The test binary is also the other process.
func init() {
	text := os.Getenv(riderEnv)
	if text == "" {
		return
	}
	var task riderTask
	report := riderReport{Results: map[string]int{}}
	err := json.Unmarshal([]byte(text), &task)
	if err == nil {
		err = task.ride(&report)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(report)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, task.Who+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// untimed is a configuration in which no timer helps: what happens within a test happens because of what the server says.
func untimed(c *Config) {
	patience(c)
	c.PingInterval = time.Hour
}

func (task riderTask) ride(report *riderReport) error {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(task.URL)
	if err != nil {
		return err
	}
	config.ConnConfig.RuntimeParams["application_name"] = task.Who
	var points *numbered
	if task.KillAt != 0 {
		points = number(config, task.KillAt)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	book, err := pgxpool.New(ctx, task.BookURL)
	if err != nil {
		return err
	}
	defer book.Close()
	settings := Config{LivenessDSN: task.LivenessDSN}
	untimed(&settings)
	client, err := New(pool, settings)
	if err != nil {
		return err
	}
	t := &journey{key: task.Key, who: task.Who, book: book, at: task.stop()}
	if points != nil {
		warm := &journey{key: Key{"warm", NewID()}, who: task.Who, book: book}
		if _, err := warm.do(ctx, client, task.Itinerary); err != nil && !errors.Is(err, refused) {
			return err
		}
		points.begin()
		t.at = func(string) { points.pass() }
	}
	term := make(chan os.Signal, 1)
	if task.EndsOnTerm {
		signal.Notify(term, syscall.SIGTERM)
	}
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range max(1, task.Callers) {
		callers.Go(func() {
			got, err := t.do(ctx, client, task.Itinerary)
			mu.Lock()
			defer mu.Unlock()
			if points != nil {
				report.Points = points.passed()
			}
			report.Attempt = got.Attempt
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
	if task.Waits {
		for waiters(client, task.Key) < task.Callers-1 {
			runtime.Gosched()
		}
		fmt.Println("waiting")
	}
	if task.EndsOnTerm {
		<-term
		unlink := context.AfterFunc(client.stop, func() { fmt.Println("closing") })
		defer unlink()
		over, cancel := context.WithCancel(ctx)
		cancel()
		if err := client.Close(over); err != nil {
			report.Closed = err.Error()
		}
	}
	callers.Wait()
	return nil
}

// stop waits at the task's place, the first time that it is reached.
func (task riderTask) stop() func(place string) {
	var once sync.Once
	return func(place string) {
		if place == task.StopAt {
			once.Do(func() {
				fmt.Println(place)
				_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
			})
		}
	}
}

// rider is the other process as the test sees it.
type rider struct {
	b       *bundle
	process *exec.Cmd
	stdin   io.Writer
	stdout  *bufio.Reader
}

// startRider starts another process on the bundle's key.
func (b *bundle) startRider(task riderTask) *rider {
	b.Helper()
	task.Key, task.BookURL = b.key, b.db.URL()
	if task.URL == "" {
		task.URL = b.db.URL()
	}
	text, err := json.Marshal(task)
	b.must(text, err)
	self, err := os.Executable()
	b.must(self, err)
	alive, cancel := context.WithTimeout(b.Context(), 2*time.Minute) // not for ever, whatever goes wrong in it
	b.Cleanup(cancel)
	r := &rider{b: b, process: exec.CommandContext(alive, self)}
	r.process.Env = slices.Concat(os.Environ(), []string{riderEnv + "=" + string(text)})
	r.process.Stderr = os.Stderr
	stdin, err := r.process.StdinPipe()
	b.must(stdin, err)
	stdout, err := r.process.StdoutPipe()
	b.must(stdout, err)
	r.stdin, r.stdout = stdin, bufio.NewReader(stdout)
	b.must(nil, r.process.Start())
	b.Cleanup(func() { _ = r.process.Wait() }) // its context has ended by then
	return r
}

// says waits for a line of the other process.
func (r *rider) says(want string) {
	r.b.Helper()
	if line, err := r.stdout.ReadString('\n'); line != want+"\n" {
		r.b.Fatalf("the other process says %q, %v; want %q", line, err, want)
	}
}

// goOn lets it leave the place at which it stopped.
func (r *rider) goOn() {
	r.b.Helper()
	_, err := io.WriteString(r.stdin, "\n")
	r.b.must(nil, err)
}

// report is what it says at its end.
func (r *rider) report() (report riderReport) {
	r.b.Helper()
	r.b.must(nil, json.NewDecoder(r.stdout).Decode(&report))
	return report
}

func (r *rider) kill() {
	r.b.Helper()
	r.b.must(nil, r.process.Process.Kill())
}
